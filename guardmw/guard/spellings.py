"""Words spelt to be read past: in ROT13, backwards, with digits for letters, or letter by letter.

Models read them, a list of word pieces doesn't show them. What a spelling means is taken from it where several words
near each other are no words as they stand, and are as they are meant.
"""

from __future__ import annotations

import re
import string
from collections.abc import Container, Iterator

from guardmw.guard.lookalikes import visible

__all__ = ["spelt_out"]

FEWEST, APART, AROUND = 3, 4, 2
"""So many words speak for a spelling, at most so many words apart; it is read for so many words around them."""
SHORTEST = 4
"""Shorter words may be words by chance."""
LONGEST = 20

_LETTERS = re.compile(r"[a-z]+")
_WITH_DIGITS = re.compile(r"[a-z0-9@$!]+")
_ONE_BY_ONE = re.compile(r"(?<![a-z0-9])(?:[a-z0-9][ \t.*_-]{1,3}){5,}[a-z0-9](?![a-z0-9])")
_GAP, _WIDE_GAP = re.compile(r"[ \t.*_-]"), re.compile(r"[ \t.*_-]{2,}")
_ROT13 = str.maketrans(string.ascii_lowercase, string.ascii_lowercase[13:] + string.ascii_lowercase[:13])
_DIGITS = str.maketrans("0134578@$!", "oieastbasi")


def spelt_out(text: str, known: Container[str]) -> list[str]:
    """What `text` says where it is spelt otherwise, at most one text for each spelling; `known` are words, in small
    letters."""
    text = visible(text).lower()
    backwards = _LETTERS.sub(lambda word: word.group()[::-1], text)
    read = (
        _meant(text, text.translate(_ROT13), _LETTERS, known),
        _meant(text, backwards, _LETTERS, known),
        _meant(text, text.translate(_DIGITS), _WITH_DIGITS, known),
        (_joined(run.group(), known) for run in _ONE_BY_ONE.finditer(text)),
    )
    return [found for found in map(" ".join, read) if found]


def _meant(text: str, meant: str, word: re.Pattern[str], known: Container[str]) -> Iterator[str]:
    """The stretches of `meant` in whose words `text` has none; both have their words at the same places."""
    spans = [found.span() for found in word.finditer(text)]
    telling = [
        place
        for place, (start, end) in enumerate(spans)
        if end - start >= SHORTEST and text[start:end] not in known and meant[start:end] in known
    ]
    for run in _runs(telling):
        first, last = max(0, run[0] - AROUND), min(len(spans) - 1, run[-1] + AROUND)
        yield meant[spans[first][0] : spans[last][1]]


def _runs(places: list[int]) -> Iterator[list[int]]:
    """Numbers in rising order, in groups of at least `FEWEST` that lie close to each other."""
    run: list[int] = []
    for place in places:
        if run and place - run[-1] > APART:
            if len(run) >= FEWEST:
                yield run
            run = []
        run.append(place)
    if len(run) >= FEWEST:
        yield run


def _joined(letters: str, known: Container[str]) -> str:
    """Single letters as words: those that wide gaps part, or else known ones, as long as they get."""
    if _WIDE_GAP.search(letters):
        return _GAP.sub("", _WIDE_GAP.sub("\n", letters)).replace("\n", " ")
    whole = _GAP.sub("", letters)
    worth, start_of = [0], [0]
    for end in range(1, len(whole) + 1):
        starts = [start for start in range(max(0, end - LONGEST), end) if start == end - 1 or whole[start:end] in known]
        worths = [worth[start] + (end - start) ** 2 - (whole[start:end] not in known) for start in starts]
        worth.append(max(worths))
        start_of.append(starts[worths.index(worth[end])])
    words, end = [], len(whole)
    while end:
        words.append(whole[start_of[end] : end])
        end = start_of[end]
    return " ".join(reversed(words))
