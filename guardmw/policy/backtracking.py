"""Finding regular expressions that a hostile text can make run forever."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

MANY = 16
"""A repetition that may run more often than this counts as unbounded."""

_ALPHABET = [chr(code) for code in range(256)]
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")


def backtracks(pattern: str) -> bool:
    r"""True when `pattern` repeats a repetition whose rounds can be cut in many ways, as ``(a+)+`` does: matching then
    takes time exponential in the text.

    An approximation on characters below 256: rounds told apart by a character the inner repetition can't take, as in
    ``(\w+-)+``, are safe. Overlapping alternatives (``(a|a)*``) are not looked for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    return any(_ambiguous(body) for body in _repeated(parsed))


def _repeated(parsed: Iterable[Any]) -> Iterable[list[Any]]:
    """The bodies of all unbounded repetitions in `parsed`, outermost first."""
    for name, argument in _named(parsed):
        if name in _REPEATS and argument[1] > MANY:
            yield list(argument[2])
        for part in _parts(name, argument):
            yield from _repeated(part)


def _ambiguous(body: list[Any]) -> bool:
    """True when a round of `body` holds an unbounded repetition that nothing else in the round bounds."""
    flat = list(_flatten(body))
    for place, (name, argument) in enumerate(flat):
        if name not in _REPEATS or argument[1] <= MANY:
            if any(_ambiguous(list(part)) for part in _parts(name, argument) if name == "BRANCH"):
                return True
            continue
        inner = _characters(argument[2])
        if not any(_bounds(other, inner) for index, other in enumerate(flat) if index != place):
            return True
    return False


def _flatten(body: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    for name, argument in _named(body):
        if name == "SUBPATTERN":
            yield from _flatten(argument[-1])
        else:
            yield name, argument


def _bounds(item: tuple[str, Any], inner: set[str]) -> bool:
    """True when every round must pass a character here that the inner repetition can't take."""
    name, argument = item
    if name in _REPEATS:
        return argument[0] > 0 and not (_characters(argument[2]) & inner)
    return name in ("LITERAL", "NOT_LITERAL", "IN", "ANY") and not (_characters([item]) & inner)


def _characters(parsed: Iterable[Any]) -> set[str]:
    """Every character that may occur in a match of `parsed`."""
    found: set[str] = set()
    for name, argument in _named(parsed):
        if name == "LITERAL":
            found.add(chr(argument))
        elif name == "NOT_LITERAL":
            found |= {char for char in _ALPHABET if ord(char) != argument}
        elif name == "ANY":
            found |= set(_ALPHABET)
        elif name == "IN":
            found |= {char for char in _ALPHABET if _within(char, argument)}
        for part in _parts(name, argument):
            found |= _characters(part)
    return found


def _within(char: str, members: Iterable[Any]) -> bool:
    inverted = inside = False
    for name, argument in _named(members):
        match name:
            case "NEGATE":
                inverted = True
            case "LITERAL":
                inside |= ord(char) == argument
            case "RANGE":
                inside |= argument[0] <= ord(char) <= argument[1]
            case "CATEGORY":
                inside |= _in_category(char, str(argument))
    return inside != inverted


def _in_category(char: str, category: str) -> bool:
    kind = category.rpartition("_")[2]
    classes = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
    return bool(re.match(classes[kind], char)) != ("NOT" in category)


def _named(parsed: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    return ((str(operator), argument) for operator, argument in parsed)


def _parts(name: str, argument: Any) -> list[Any]:
    """The patterns within an item. Possessive and atomic ones are left out: they never go back."""
    match name:
        case "MAX_REPEAT" | "MIN_REPEAT":
            return [argument[2]]
        case "SUBPATTERN":
            return [argument[-1]]
        case "BRANCH":
            return list(argument[1])
        case "ASSERT" | "ASSERT_NOT":
            return [argument[1]]
        case "GROUPREF_EXISTS":
            return [part for part in argument[1:] if part]
        case _:
            return []
