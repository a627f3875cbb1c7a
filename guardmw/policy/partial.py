"""What the beginning of a match looks like: patterns taken apart, so that streams know what to wait for.

A stream may be shown up to the first place where a match could still begin or grow. For a pattern ``ab+c`` those are
the texts that end in ``a``, ``ab``, ``abb`` …: its *prefixes*. They are derived here from the parsed pattern, the way
partial matching works in PCRE and Java (``hitEnd``), which Python's `re` lacks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from re import _constants as c  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

Node = tuple[Any, Any]
WHITESPACE = " \t\n\r\x0b\x0c"

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


class Unsupported(ValueError):
    """The pattern depends on earlier groups, so its prefixes can't be told."""


@dataclass(frozen=True, slots=True)
class Parts:
    """`full` matches at least what the pattern matches, `prefix` every beginning of that, the empty one too."""

    full: str
    prefix: str
    max_chars: int
    spaced: bool
    back_chars: int = 0


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of a pattern before its match is complete.

    `tail` (a regular expression, to be followed by ``\\Z``) matches every text that is the beginning of a match or of
    what decides about it; `loose` matches wherever the pattern does when it sees at most `limit_chars` characters;
    `reach_chars` is how many characters an attempt can look at, `back_chars` how many before it; `spaced`: a match may
    hold white space.
    """

    tail: str
    loose: str
    reach_chars: int
    back_chars: int
    spaced: bool


def analyse(pattern: re.Pattern[str], limit_chars: int) -> Partial:
    """Takes `pattern` apart; repeats without bound count as repeats of up to `limit_chars`.

    Raises Unsupported for back-references and conditionals.
    """
    parsed = parser.parse(pattern.pattern, pattern.flags)
    parts = _sequence(list(parsed), limit_chars)
    opening, loose = _flags(pattern.flags), parts.full
    for boundary in _LOOKING_BOTH_WAYS.values():  # a cut looks like a boundary where there is none
        loose = loose.replace(boundary, "")
    return Partial(
        f"{opening}{parts.prefix})", f"{opening}{loose})", parts.max_chars, parts.back_chars, parts.spaced
    )


def _flags(flags: int) -> str:
    letters = "".join(letter for flag, letter in _FLAG_LETTERS if flags & flag)
    return f"(?{letters}:"


def _sequence(nodes: Sequence[Node], limit: int) -> Parts:
    parts = [_node(node, limit) for node in nodes]
    prefix = ""
    for part in reversed(parts):
        prefix = f"(?:{part.full}{prefix}|{part.prefix})" if part.full else f"(?:{prefix}|{part.prefix})"
    return Parts(
        "".join(part.full for part in parts),
        prefix,
        sum(part.max_chars for part in parts),
        any(part.spaced for part in parts),
        max((part.back_chars for part in parts), default=0),
    )


def _node(node: Node, limit: int) -> Parts:
    kind, value = node
    if kind in (c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN):
        return _character(node)
    if kind is c.AT:
        return _place(value)
    if kind in (c.ASSERT, c.ASSERT_NOT):
        return _assertion(kind, *value, limit)
    if kind is c.BRANCH:
        return _branch(value[1], limit)
    if kind is c.SUBPATTERN:
        return _group(value, limit)
    if kind is c.ATOMIC_GROUP:
        return _sequence(value, limit)
    if kind in (c.MAX_REPEAT, c.MIN_REPEAT, c.POSSESSIVE_REPEAT):
        return _repeat(*value, limit)
    if kind is c.FAILURE:
        return Parts("(?!)", "(?!)", 0, False)
    raise Unsupported(f"{kind} in a pattern")


def _place(code: Any) -> Parts:
    if code in _LOOKING_BACK:
        return Parts(_LOOKING_BACK[code], "", 0, False, 1)
    if code in _LOOKING_BOTH_WAYS:
        return Parts(_LOOKING_BOTH_WAYS[code], "", 1, False, 1)
    return Parts("", "\\n?", 2, True)  # an end, which a last line break may follow


def _character(node: Node) -> Parts:
    text = _class_text(node)
    compiled = re.compile(text, re.DOTALL)
    return Parts(text, f"{text}?", 1, any(compiled.fullmatch(space) for space in WHITESPACE))


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


def _assertion(kind: Any, direction: int, body: Sequence[Node], limit: int) -> Parts:
    inner = _sequence(list(body), limit)
    if direction < 0 and any(kind in (c.AT, c.ASSERT, c.ASSERT_NOT) for kind, _ in body):
        raise Unsupported("a look-behind that looks further")
    if direction > 0:  # what follows decides: wait for it, and let every full match pass
        return Parts("", inner.prefix, inner.max_chars, inner.spaced, inner.back_chars)
    sign = "<=" if kind is c.ASSERT else "<!"
    return Parts(f"(?{sign}{inner.full})", "", 0, False, inner.max_chars)


def _branch(branches: Sequence[Sequence[Node]], limit: int) -> Parts:
    parts = [_sequence(list(branch), limit) for branch in branches]
    return Parts(
        f"(?:{'|'.join(part.full for part in parts)})",
        f"(?:{'|'.join(part.prefix for part in parts)})",
        max(part.max_chars for part in parts),
        any(part.spaced for part in parts),
        max((part.back_chars for part in parts), default=0),
    )


def _group(value: tuple[int | None, int, int, Sequence[Node]], limit: int) -> Parts:
    _, added, removed, body = value
    parts = _sequence(list(body), limit)
    letters = _flags(added)[2:-1] + (f"-{_flags(removed)[2:-1]}" if removed else "")
    return replace(parts, full=f"(?{letters}:{parts.full})", prefix=f"(?{letters}:{parts.prefix})")


def _repeat(low: int, high: Any, body: Sequence[Node], limit: int) -> Parts:
    inner = _sequence(list(body), limit)
    most = limit if high is c.MAXREPEAT else int(high)
    full = f"(?:{inner.full}){{{min(low, most)},{most}}}"
    if len(body) == 1 and body[0][0] in (c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN):
        full = f"{inner.full}{{{min(low, most)},{most}}}"
        prefix = f"{inner.full}{{0,{most}}}"
    else:
        prefix = f"(?:(?:{inner.full}){{0,{max(most - 1, 0)}}}{inner.prefix})"
    return replace(inner, full=full, prefix=prefix, max_chars=inner.max_chars * most)
