"""Which texts repeat something that a tool returned: fingerprints of its values, looked up in arguments.

A text is read as a reader sees it, as its runs of letters and digits, without case, so that ``4111-1111`` and
``41111111`` are the same, in full-width digits too. In arguments the keys of objects are read as well, but for single
words. Short values count whole; of long ones every `WINDOW` words in a row, and what looks like data in them: whatever
holds a digit or an ``@``, and names (capitalised words in a row). This finds copies, however they are separated, and
no paraphrase, no encoding, no single common word, and none that is split over several values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from guardmw.policy.normalize import normalize

WINDOW = 5
"""So many words in a row of a long value are recognised; shorter values count whole."""

MAX_PIECES = 12
"""A value is recognised in arguments that write it in so many pieces at most, unless the pieces are short."""

SHORT = 4
"""Pieces of so many characters are put together as long as something known may come of them."""

MAX_SPELLED = 128
"""A value that is longer is not recognised in such short pieces; this keeps reading linear."""

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
    longest: int = 0

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
        return Values(tuple(sets), longest=max([self.longest, *map(len, fresh)]))

    def repeated_in(self, text: str) -> bool:
        """Whether `text` repeats one of the values. Linear in `text`."""
        if self.full:
            return bool(text)
        return bool(self.sets) and any(
            piece in known for piece in _pieces(text, min(self.longest, MAX_SPELLED)) for known in self.sets
        )


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


def _pieces(text: str, longest: int = 0) -> Iterator[str]:
    """Every row of words of `text`, joined, of each plain value and key in it when it is JSON: of MAX_PIECES words at
    most, or of short ones with `longest` characters together."""
    parts = _parse(text)
    for leaf in _plain(parts):
        yield from _rows(_words(leaf), longest)
    for key in _keys(parts):
        names = {word for word in _words(key) if word.isalpha()}  # a single word is what most fields are called by
        yield from (row for row in _rows(_words(key), longest) if row not in names)


def _rows(words: list[str], longest: int) -> Iterator[str]:
    for start in range(len(words)):
        joined = ""
        for place in range(start, len(words)):
            word = words[place]
            if place - start >= MAX_PIECES and (len(word) > SHORT or len(joined) >= longest):
                break
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
    return _plain(_parse(text))


def _parse(text: str) -> Any:
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else text.splitlines()
    except (ValueError, RecursionError):
        return text.splitlines()


def _plain(parts: Any) -> Iterator[str]:
    for part in _within(parts):
        if not isinstance(part, dict | list | bool | None):
            yield normalize(str(part)).text


def _keys(parts: Any) -> Iterator[str]:
    for part in _within(parts):
        if isinstance(part, dict):
            yield from (normalize(key).text for key in part)


def _within(parts: Any) -> Iterator[Any]:
    """`parts` and all that is in them; a loop, since models can nest deeper than Python recurses."""
    waiting = [parts]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
