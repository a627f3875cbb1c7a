"""Detectors of secrets that only their names give away: ``password: …``, ``api_key=…``, ``scheme://user:…@host``.

What is reported is the value. Placeholders, code that merely names a secret, and prose about passwords are not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from guardmw.policy.detector import Detector, Span, context_before

_QUOTE = r"\\{0,2}[\"'`]"
_CLOSE = rf"(?:{_QUOTE}|[\])*]{{1,2}})?"
_SEPARATOR = rf"{_CLOSE}\s{{0,3}}(?::=|=>|={{1,3}}|:|\bis\b:?|\bwas\b:?)\s{{0,3}}"
_PLAIN_VALUE = r"[^\s\"'`,;<>()\[\]{}\\]{3,128}"
_QUOTED_VALUE = r"[^\s\"'`\\<>]{3,128}"
_TOKEN_VALUE = r"[A-Za-z0-9+/=_.~-]{10,512}"  # noqa: S105

_PASSWORD_NAME = (
    r"(?:pass(?:word|wort|code|phrase|wd)|paswd|ps?s?wd|kennwort|contrase[nñ]a|mot de passe|senha"
    r"|(?<![a-z])(?:pass|pw))\d{0,3}"
)
_PASSWORD_LEADS = ("pass", "paswd", "pswd", "psswd", "pwd", "pw", "kennwort", "contrase", "mot de passe", "senha")
_PASSWORD = re.compile(
    rf"{_PASSWORD_NAME}(?:{_SEPARATOR}(?:{_QUOTE}(?P<quoted>{_QUOTED_VALUE})(?={_QUOTE})|(?P<value>{_PLAIN_VALUE}))"
    rf"|\s{{1,3}}(?:{_QUOTE}(?P<after_quoted>{_QUOTED_VALUE})(?={_QUOTE})|(?P<after>{_PLAIN_VALUE})))",
    re.IGNORECASE,
)
_BASIC_AUTH = re.compile(r"(?i:\bbasic)\s{1,3}(?P<value>[A-Za-z0-9+/]{12,512}={0,2})")

_KEY = re.compile(
    rf"(?:key|secret|credentials?)(?:[_ -](?:key|token|id|value))?\d{{0,3}}{_SEPARATOR}(?:{_QUOTE})?(?P<value>{_TOKEN_VALUE})",
    re.IGNORECASE,
)
_KEY_CONTEXT = re.compile(
    r"(?:api|app|access|auth(?:entication|orization)?|secret|client|private|service|account|encryption|encrypt|signing|sign"
    r"|consumer|master|shared|license|storage|hash|session|webhook|function|admin)[_ .-]?$",
    re.IGNORECASE,
)
_TOKEN = re.compile(rf"token\d{{0,3}}{_SEPARATOR}(?:{_QUOTE})?(?P<value>{_TOKEN_VALUE})", re.IGNORECASE)
_BEARER = re.compile(r"(?i:\b(?:bearer|authorization:? token))\s{1,3}(?P<value>[A-Za-z0-9._~+/-]{16,512}={0,2})")
_AWS_SECRET = re.compile(
    rf"(?i:secret_?(?:access_?)?key|aws_?secret){_SEPARATOR}(?:{_QUOTE})?(?P<value>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])"
)
_CONNECTION = re.compile(
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@\"'<>]{0,128}(?:@[^\s:/@\"'<>]{1,128})?"
    r":(?P<value>[^\s/\"'`<>]{1,256})@(?=[A-Za-z0-9\[$_-])"
)
_CONNECTION_GATE = re.compile("://")

_PLACEHOLDER = re.compile(
    r"(.)\1*|[$%#]\w.*|your.*|my.?(?:password|secret|token|api.?key)|.*(?:example|placeholder|changeme|change_me|redacted"
    r"|insert|replace|dummy|_here).*|(?:the|new|old|user|db)?_?(?:password|passwd|pass|pwd|secret|token|string|text|value)"
    r"|str|int|bool|none|null|nil|true|false|undefined|required|optional|hidden|unknown|empty|default|not|the|an?|xx+.*"
    r"|https?:.*|\*+.*|\.+.*|-+",
    re.IGNORECASE | re.DOTALL,
)
_CODE = re.compile(r"[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+|(?:get|set|is|has|self|this|os|process|config)[._]\w.*")
_SYMBOL = re.compile(r"[!@#$%^&*?~|]")
_DIGIT, _LETTER = re.compile(r"[0-9]"), re.compile(r"[A-Za-z]")
_MIN_ENTROPY_BITS = 2.8


def looks_random(value: str) -> bool:
    """True for strings nobody would choose as a name: digits among letters, and many different characters."""
    if _DIGIT.search(value) is None or _LETTER.search(value) is None:
        return False
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return bits >= _MIN_ENTROPY_BITS


def password_assignments() -> Iterator[Detector]:
    yield Detector("password", _PASSWORD, _password, _PASSWORD_LEADS)
    yield Detector("password", _BASIC_AUTH, _random_value, ("basic",), max_chars=1024)


def api_key_assignment() -> Detector:
    return Detector("api_key", _KEY, _key, ("key", "secret", "credential"), max_chars=1024)


def token_assignments() -> Iterator[Detector]:
    yield Detector("access_token", _TOKEN, _random_value, ("token",), max_chars=1024)
    yield Detector("access_token", _BEARER, _random_value, ("bearer", "authorization"), max_chars=1024)


def aws_secret_assignment() -> Detector:
    return Detector("cloud_key", _AWS_SECRET, _random_value, ("secret",))


def connection_string() -> Detector:
    return Detector("connection_string", _CONNECTION, _connection_password, gate=_CONNECTION_GATE, max_chars=1024)


def _random_value(match: re.Match[str]) -> Span | None:
    value = match["value"].rstrip(".")
    if _PLACEHOLDER.fullmatch(value) or _CODE.fullmatch(value) or not looks_random(value):
        return None
    return match.start("value"), match.start("value") + len(value)


def _key(match: re.Match[str]) -> Span | None:
    """A key is a secret only when it is called one: `api key`, `client secret`, not `primary key`."""
    named = match[0][:3].lower() != "key" or _KEY_CONTEXT.search(context_before(match))
    return _random_value(match) if named else None


def _connection_password(match: re.Match[str]) -> Span | None:
    value = match["value"]
    return None if _PLACEHOLDER.fullmatch(value) or value[0] in "{[" else match.span("value")


def _password(match: re.Match[str]) -> Span | None:
    """Quoted values count unless they are placeholders; others must look like a password too."""
    group = match.lastgroup or "value"
    value = match[group]
    if group not in ("quoted", "after_quoted"):
        value = value.rstrip(".:?")
        if not _chosen(value, named=group == "value"):
            return None
    if len(value) < 3 or _PLACEHOLDER.fullmatch(value) or _CODE.fullmatch(value):
        return None
    return match.start(group), match.start(group) + len(value)


def _chosen(value: str, *, named: bool) -> bool:
    """Something that is no word: digits among letters, a symbol, or, where a colon or the like precedes, digits."""
    letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    if named and not letters and digits:
        return len(value) >= 4
    return (letters and digits and len(value) >= 5) or (len(value) >= 6 and _SYMBOL.search(value[:-1]) is not None)
