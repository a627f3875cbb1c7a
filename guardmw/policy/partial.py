"""What the beginning of a match looks like: patterns taken apart, so that streams know what to wait for.

A stream may be shown up to the first place where a match could still begin or grow. For a pattern ``ab+c`` those are
the texts that end in ``a``, ``ab``, ``abb`` …: its *prefixes*. They are derived here from the parsed pattern, the way
partial matching works in PCRE and Java (``hitEnd``), which Python's `re` lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from re import _constants as c  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

Node = tuple[Any, Any]
Alphabet = frozenset[str] | None
"""The ASCII characters something is made of; None when others may be among them."""

SPACES = " \n\t\r\x0b\x0c"
_ASCII = "".join(map(chr, range(128)))
_CATEGORIES = {
    c.CATEGORY_DIGIT: r"\d",
    c.CATEGORY_NOT_DIGIT: r"\D",
    c.CATEGORY_SPACE: r"\s",
    c.CATEGORY_NOT_SPACE: r"\S",
    c.CATEGORY_WORD: r"\w",
    c.CATEGORY_NOT_WORD: r"\W",
}
_LOOKING_BACK = {c.AT_BEGINNING: "^", c.AT_BEGINNING_STRING: r"\A"}
_LOOKING_BOTH_WAYS = {c.AT_BOUNDARY: r"(?:\b|\Z)", c.AT_NON_BOUNDARY: r"(?:\B|\Z)"}
_FLAG_LETTERS = ((re.ASCII, "a"), (re.IGNORECASE, "i"), (re.MULTILINE, "m"), (re.DOTALL, "s"))
_CHARACTERS = (c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN)
_REPEATS = (c.MAX_REPEAT, c.MIN_REPEAT, c.POSSESSIVE_REPEAT)


class Unsupported(ValueError):
    """The pattern depends on earlier groups, so its prefixes can't be told."""


@dataclass(frozen=True, slots=True)
class Partial:
    r"""What is known of a pattern before its match is complete.

    `tail` (a regular expression, to be followed by ``\Z``) matches every text that is the beginning of a match or of
    what decides about it; `alphabet` is what such texts are made of, `spaced` whether SPACES are among it. `loose`
    matches wherever the pattern does when it sees at most `limit_chars` characters. `reach_chars` is how many
    characters an attempt can look at, `back_chars` how many before its start.
    """

    tail: str
    loose: str
    reach_chars: int
    back_chars: int
    alphabet: Alphabet
    spaced: bool


def analyse(pattern: re.Pattern[str], limit_chars: int) -> Partial:
    """Takes `pattern` apart; repeats without bound count as repeats of up to `limit_chars`.

    Raises Unsupported for back-references and conditionals.
    """
    parts = _Reader(limit_chars, pattern.flags).sequence(list(parser.parse(pattern.pattern, pattern.flags)))
    flags, loose = _letters(pattern.flags), parts.full
    for boundary in _LOOKING_BOTH_WAYS.values():  # a cut looks like a boundary where there is none
        loose = loose.replace(boundary, "")
    return Partial(
        f"(?{flags}:{parts.prefix})",
        f"(?{flags}:{loose})",
        parts.max_chars,
        parts.back_chars,
        parts.alphabet,
        parts.spaced,
    )


def _letters(flags: int) -> str:
    return "".join(letter for flag, letter in _FLAG_LETTERS if flags & flag)


@dataclass(frozen=True, slots=True)
class _Parts:
    """`full` matches at least what a piece of a pattern matches, `prefix` every beginning of it, the empty one too."""

    full: str
    prefix: str
    max_chars: int
    alphabet: Alphabet = frozenset()
    back_chars: int = 0
    spaced: bool = False


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads parsed patterns: one method for each kind of node of `re`'s parser."""

    limit: int
    flags: int

    def sequence(self, nodes: Sequence[Node]) -> _Parts:
        parts = [self._node(node) for node in nodes]
        prefix = ""
        for part in reversed(parts):
            prefix = f"(?:{part.full}{prefix}|{part.prefix})"
        return _joined(parts, "".join(part.full for part in parts), prefix, sum(part.max_chars for part in parts))

    def _node(self, node: Node) -> _Parts:
        kind, value = node
        if kind in _CHARACTERS:
            return self._character(node)
        if kind is c.AT:
            return _place(value)
        if kind in (c.ASSERT, c.ASSERT_NOT):
            return self._assertion(kind, *value)
        if kind is c.BRANCH:
            return self._branch(value[1])
        if kind is c.SUBPATTERN:
            return self._group(*value)
        if kind is c.ATOMIC_GROUP:
            return self.sequence(value)
        if kind in _REPEATS:
            return self._repeat(*value)
        if kind is c.FAILURE:
            return _Parts("(?!)", "(?!)", 0)
        raise Unsupported(f"{kind} in a pattern")

    def _character(self, node: Node) -> _Parts:
        text = _class_text(node)
        matches = re.compile(text, self.flags & re.IGNORECASE | re.DOTALL).fullmatch
        alphabet = None if self._beyond_ascii(node) else frozenset(filter(matches, _ASCII))
        return _Parts(text, f"{text}?", 1, alphabet, spaced=any(map(matches, SPACES)))

    def _beyond_ascii(self, node: Node) -> bool:
        kind, value = node
        if kind is c.IN:
            return any(self._beyond_ascii(member) for member in value)
        if kind is c.RANGE:
            return bool(value[1] > 127)
        if kind is c.CATEGORY:
            return not self.flags & re.ASCII or "NOT" in str(value)
        return kind is not c.LITERAL or value > 127

    def _assertion(self, kind: Any, direction: int, body: Sequence[Node]) -> _Parts:
        if direction > 0:  # what follows decides: wait for it, and let every full match pass
            return replace(self._undecided(list(body)), full="")
        inner = self.sequence(list(body))
        if any(kind in (c.AT, c.ASSERT, c.ASSERT_NOT) for kind, _ in body):
            raise Unsupported("a look-behind that looks further")
        sign = "<=" if kind is c.ASSERT else "<!"
        return _Parts(f"(?{sign}{inner.full})", "", 0, back_chars=inner.max_chars)

    def _undecided(self, body: list[Node]) -> _Parts:
        """What follows a match while an assertion about it still awaits its last character."""
        if len(body) == 1 and body[0][0] is c.BRANCH:
            branches = [self._undecided(list(branch)) for branch in body[0][1][1]]
            prefix = "|".join(branch.prefix for branch in branches)
            return _joined(branches, "", f"(?:{prefix})", max(branch.max_chars for branch in branches))
        if body and body[-1][0] in _CHARACTERS:
            before = self.sequence(body[:-1])
            return replace(before, max_chars=before.max_chars + 1)
        return self.sequence(body)

    def _branch(self, branches: Sequence[Sequence[Node]]) -> _Parts:
        parts = [self.sequence(list(branch)) for branch in branches]
        full = "|".join(part.full for part in parts)
        prefix = "|".join(part.prefix for part in parts)
        return _joined(parts, f"(?:{full})", f"(?:{prefix})", max(part.max_chars for part in parts))

    def _group(self, _: int | None, added: int, removed: int, body: Sequence[Node]) -> _Parts:
        parts = _Reader(self.limit, (self.flags | added) & ~removed).sequence(list(body))
        letters = _letters(added) + (f"-{_letters(removed)}" if removed else "")
        return replace(parts, full=f"(?{letters}:{parts.full})", prefix=f"(?{letters}:{parts.prefix})")

    def _repeat(self, low: int, high: Any, body: Sequence[Node]) -> _Parts:
        inner = self.sequence(list(body))
        most = self.limit if high is c.MAXREPEAT else int(high)
        single = len(body) == 1 and body[0][0] in _CHARACTERS
        one = inner.full if single else f"(?:{inner.full})"
        full = f"{one}{{{min(low, most)},{most}}}"
        prefix = f"{one}{{0,{most}}}" if single else f"(?:{one}{{0,{max(most - 1, 0)}}}{inner.prefix})"
        return replace(inner, full=full, prefix=prefix, max_chars=inner.max_chars * most)


def _joined(parts: Sequence[_Parts], full: str, prefix: str, max_chars: int) -> _Parts:
    back_chars = max((part.back_chars for part in parts), default=0)
    spaced = any(part.spaced for part in parts)
    return _Parts(full, prefix, max_chars, _union(part.alphabet for part in parts), back_chars, spaced)


def _union(alphabets: Iterable[Alphabet]) -> Alphabet:
    known = list(alphabets)
    if None in known:
        return None
    return frozenset().union(*(alphabet for alphabet in known if alphabet is not None))


def _place(code: Any) -> _Parts:
    if code in _LOOKING_BACK:
        return _Parts(_LOOKING_BACK[code], "", 0, back_chars=1)
    if code in _LOOKING_BOTH_WAYS:
        return _Parts(_LOOKING_BOTH_WAYS[code], "", 1, back_chars=1)
    return _Parts("", "\n?", 2, frozenset("\n"), spaced=True)  # an end, which a last line break may follow


def _class_text(node: Node) -> str:
    kind, value = node
    if kind is c.LITERAL:
        return re.escape(chr(value))
    if kind is c.NOT_LITERAL:
        return f"[^{_escaped(value)}]"
    if kind is c.ANY:
        return "."
    return f"[{''.join(_member(member) for member in value)}]"


def _member(member: Node) -> str:
    kind, value = member
    if kind is c.NEGATE:
        return "^"
    if kind is c.LITERAL:
        return _escaped(value)
    if kind is c.RANGE:
        return f"{_escaped(value[0])}-{_escaped(value[1])}"
    return _CATEGORIES[value]


def _escaped(codepoint: int) -> str:
    return f"\\U{codepoint:08x}"
