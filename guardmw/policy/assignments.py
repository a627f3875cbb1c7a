"""Detectors of secrets that only their names give away: ``password: …``, ``api_key=…``, ``scheme://user:…@host``.

What is reported is the value. Placeholders, code that merely names a secret, and prose about passwords are not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from guardmw.policy.detector import Detector, Span, preceded_by

_QUOTE = r"\\{0,2}[\"'`]"
_CLOSE = rf"(?:{_QUOTE}|[\])*]{{1,2}})?"
_SEPARATOR = (
    rf"(?:{_CLOSE}\s{{0,3}}(?::\s?[A-Za-z]{{2,12}}\s?=|:=|=>|={{1,3}}|:|\bis\b:?|\bwas\b:?)\s{{0,3}}"
    rf"|{_QUOTE}\s{{0,2}},\s{{0,2}}(?=[\"'])|(?:\s\w{{1,16}}=\"\w{{1,16}}\")?>)"
)
_PLAIN_VALUE = r"[^\s\"'`,;<>()\[\]{}\\]{3,128}"
_QUOTED_VALUE = r"[^\s\"'`\\<>]{3,128}"
_TOKEN_VALUE = r"[A-Za-z0-9+/=_.~-]{10,512}"  # noqa: S105

_WRITTEN_OUT = (
    r"(?:pas{1,2}(?:w(?:or)?d|wort|code|phrase|wrd)|ps{1,2}w(?:or)?d|ps{1,2}wrd|pwd|kennwort|contrase[nñ]a"
    r"|mot de passe|senha)s?"
)
_NAME = rf"(?:{_WRITTEN_OUT}(?:_?[a-z]{{1,8}})?|(?<![a-z])(?:pass|pw)(?:_[a-z]{{1,8}})?)\d{{0,3}}"
_PASSWORD_LEADS = ("pas", "psw", "pss", "pwd", "pw", "kennwort", "contrase", "mot de passe", "senha")
_PASSWORD = re.compile(
    rf"(?:{_NAME}{_SEPARATOR}(?:{_QUOTE}(?P<quoted>{_QUOTED_VALUE})(?={_QUOTE})|(?P<value>{_PLAIN_VALUE}))"
    rf"|(?:{_WRITTEN_OUT}|(?<![a-z])pw)\s{{1,3}}(?:{_QUOTE}(?P<after_quoted>{_QUOTED_VALUE})(?={_QUOTE})"
    rf"|(?P<after>{_PLAIN_VALUE})))",
    re.IGNORECASE,
)
_SQL_PASSWORD = re.compile(
    rf"identified (?:with \S{{1,40}} )?(?:by|as) (?:password )?(?:{_QUOTE}(?P<quoted>{_QUOTED_VALUE})(?={_QUOTE})"
    rf"|(?<=by )(?P<after>{_PLAIN_VALUE}))",
    re.IGNORECASE,
)
_HASH = re.compile(r"\$(?:apr1|[156y]|2[abxy])\$[./A-Za-z0-9]{1,22}\$[./A-Za-z0-9]{20,90}")
_HASH_LEADS = ("$apr1$", "$1$", "$2a$", "$2b$", "$2x$", "$2y$", "$5$", "$6$", "$y$")
_BASIC_AUTH = re.compile(r"(?i:\bbasic)\s{1,3}(?P<value>[A-Za-z0-9+/]{12,512}={0,2})")

_KEY = re.compile(
    rf"(?:(?:key|secret|credentials?)(?:[_ -](?:key|token|id|value)|_\w{{1,24}})?\d{{0,3}}{_SEPARATOR}(?:{_QUOTE})?"
    rf"|(?<=-)(?:key|secret)\s{{1,2}})(?P<value>{_TOKEN_VALUE})",
    re.IGNORECASE,
)
_KEY_CONTEXT = re.compile(
    r"(?:api|app|access|auth(?:entication|orization)?|secret|client|private|service|account|encryption|encrypt|signing|sign"
    r"|consumer|master|shared|license|storage|hash|session|webhook|function|admin)[_ .-]?$",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    rf"(?:(?:token|(?<![a-z])auth(?:orization)?)(?:_\w{{1,24}})?\d{{0,3}}{_SEPARATOR}(?:{_QUOTE})?|(?<=-)token\s{{1,2}})"
    rf"(?P<value>{_TOKEN_VALUE})",
    re.IGNORECASE,
)
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
    r"(.)\1*|[$%#]\w.*|your.*|my.?(?:password|secret|token|api.?key)|xx+.*|https?:.*|\*+.*|\.+.*|-+"
    r"|(?:.*[_.-])?(?:example|placeholder|change_?me|redacted|insert|replace|dummy|here)(?:[_.-].*)?"
    r"|(?:the|new|old|user|db)?_?(?:password|passwd|pass|pwd|secret|token|string|text|value)"
    r"|str|int|bool|none|null|nil|true|false|undefined|required|optional|hidden|unknown|empty|default|not|the|an?",
    re.IGNORECASE | re.DOTALL,
)
_CODE = re.compile(r"[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+|(?:get|set|is|has|self|this|os|process|config)[._]\w.*")
_SYMBOL = re.compile(r"[!@#$%^&?]")
_DIGIT, _LETTER = re.compile(r"[0-9]"), re.compile(r"[A-Za-z]")
_UPPER, _LOWER = re.compile(r"[A-Z]"), re.compile(r"[a-z]")
_MIN_ENTROPY_BITS = 2.8
_MIXED_CASES = 4
_PLAINLY_RANDOM_CHARS = 24


def looks_random(value: str) -> bool:
    """True for strings nobody would choose as a name: digits among letters, and many different characters."""
    if _DIGIT.search(value) is None or _LETTER.search(value) is None:
        return False
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return bits >= _MIN_ENTROPY_BITS


def mixes_cases(value: str) -> bool:
    """True for strings with several letters of either case, which words don't have."""
    if _UPPER.search(value) is None:
        return False
    return min(len(_UPPER.findall(value)), len(_LOWER.findall(value))) >= _MIXED_CASES


def password_assignments() -> Iterator[Detector]:
    yield Detector("password", _PASSWORD, _password, _PASSWORD_LEADS)
    yield Detector("password", _SQL_PASSWORD, _password, ("identified ",))
    yield Detector("password", _HASH, leads=_HASH_LEADS)
    yield Detector("password", _BASIC_AUTH, _random_value, ("basic",), max_chars=1024)


def api_key_assignment() -> Detector:
    return Detector("api_key", _KEY, _key, ("key", "secret", "credential"), max_chars=1024)


def token_assignments() -> Iterator[Detector]:
    yield Detector("access_token", _TOKEN, _random_value, ("token", "auth"), max_chars=1024)
    yield Detector("access_token", _BEARER, _random_value, ("bearer", "authorization"), max_chars=1024)


def aws_secret_assignment() -> Detector:
    return Detector("cloud_key", _AWS_SECRET, _random_value, ("secret", "aws_secret", "awssecret"))


def connection_string() -> Detector:
    return Detector("connection_string", _CONNECTION, _connection_password, gate=_CONNECTION_GATE, max_chars=1024)


def _random_value(match: re.Match[str]) -> Span | None:
    value = match["value"].rstrip(".")
    if not looks_random(value) or _PLACEHOLDER.fullmatch(value) or _CODE.fullmatch(value):
        return None
    return match.start("value"), match.start("value") + len(value)


def _key(match: re.Match[str]) -> Span | None:
    """A key is a secret only when it is called one: `api key`, `client secret`, not `primary key`."""
    value = match["value"]
    span = _random_value(match)
    if span is None or match[0][:3].lower() != "key" or preceded_by(match, _KEY_CONTEXT):
        return span
    return span if len(value) >= _PLAINLY_RANDOM_CHARS and mixes_cases(value) else None


def _connection_password(match: re.Match[str]) -> Span | None:
    value = match["value"]
    return None if _PLACEHOLDER.fullmatch(value) or value[0] in "{[" else match.span("value")


def _password(match: re.Match[str]) -> Span | None:
    """Quoted values count unless they are placeholders; others must look like a password too."""
    group = match.lastgroup or "value"
    value = match[group]
    if group not in ("quoted", "after_quoted"):
        value = value.rstrip(".:?*")
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
