"""Which texts repeat something that a tool returned: fingerprints of its values, looked up in arguments.

A text is read as its runs of letters and digits, without case, so that ``4111-1111`` and ``41111111`` are the same.
Short values count whole; of long ones every `WINDOW` words in a row, and what looks like data in them: whatever holds
a digit or an ``@``, and names (capitalised words in a row). This finds copies, however they are separated, and no
paraphrase, no encoding, and no single common word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

WINDOW = 5
"""So many words in a row of a long value are recognised; shorter values count whole."""

MAX_PIECES = 12
"""A value is recognised in arguments that write it in so many pieces at most."""

MIN_CHARS = 4
"""Shorter values are too common to tell anything."""

MAX_FINGERPRINTS = 200_000
"""Of more values than this none is told apart: every text counts as a repetition."""

_WORD = re.compile(r"[^\W_]+")
_DATA = re.compile(r"\d+(?:[ -]\d+)+|[^\s,;]*[\d@][^\s,;]*|\b[A-Z]\w+(?: [A-Z]\w+)+")


@dataclass(frozen=True, slots=True)
class Values:
    """The values seen so far, as sets of fingerprints whose sizes at least halve: adding one copies little."""

    sets: tuple[frozenset[str], ...] = ()
    full: bool = False

    def adding(self, result: str, known: str = "") -> Values:
        """With the values of `result`, without those that stand in `known` already."""
        if self.full:
            return self
        fresh = frozenset(_fingerprints(result)) - frozenset(_pieces(known))
        sets = [*self.sets, fresh] if fresh else list(self.sets)
        while len(sets) > 1 and len(sets[-2]) <= 2 * len(sets[-1]):
            last = sets.pop()
            sets[-1] = sets[-1] | last
        if sum(map(len, sets)) > MAX_FINGERPRINTS:
            return Values(full=True)
        return Values(tuple(sets))

    def repeated_in(self, text: str) -> bool:
        """Whether `text` repeats one of the values. Linear in `text`."""
        if self.full:
            return bool(text)
        return bool(self.sets) and any(piece in known for piece in _pieces(text) for known in self.sets)


def _fingerprints(result: str) -> Iterator[str]:
    for leaf in _leaves(result):
        words = _words(leaf)
        if len(words) <= WINDOW:
            yield from _long_enough("".join(words))
        for place in range(len(words) - WINDOW + 1):
            yield "".join(words[place : place + WINDOW])
        if len(words) > WINDOW:
            for data in _DATA.findall(leaf):
                yield from _long_enough("".join(_words(data)))


def _pieces(text: str) -> Iterator[str]:
    """Every row of 1 to MAX_PIECES words of `text`, joined, of each plain value in it when it is JSON."""
    for leaf in _leaves(text):
        words = _words(leaf)
        for start in range(len(words)):
            joined = ""
            for word in words[start : start + MAX_PIECES]:
                joined += word
                if len(joined) >= MIN_CHARS:
                    yield joined


def _long_enough(word: str) -> Iterator[str]:
    if len(word) >= MIN_CHARS:
        yield word


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _leaves(text: str) -> Iterator[str]:
    """The plain values in `text` when it is a JSON object or list, else its lines."""
    try:
        waiting = [json.loads(text)] if text.lstrip()[:1] in ("{", "[") else text.splitlines()
    except (ValueError, RecursionError):
        waiting = text.splitlines()
    while waiting:
        match waiting.pop():
            case dict() as mapping:
                waiting.extend(mapping.values())
            case list() as items:
                waiting.extend(items)
            case None | bool():
                continue
            case leaf:
                yield str(leaf)
