"""Precedents: texts that a policy's author has decided, and what they say about a text at hand.

A sentence's mean vector can't be trusted with that: a letter and the same letter with one planted order lie at a cosine
of .996. So the words are compared one by one (late interaction, cf. Khattab & Zaharia, ColBERT, arXiv 2004.12832): a
safe precedent speaks for a text in which no word is without its like in the precedent, an unsafe one against a text
that has the like of each of its words. Vectors of words know their neighbours: in a longer text only the precedent's
own words, in their order, are sure to be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from guardmw.guard.encoder import BATCH, Encoded, Window
from guardmw.guard.reading import text_windows

if TYPE_CHECKING:
    from guardmw.guard.encoder import Model, Vectors

__all__ = ["Case", "Cases", "Precedents", "bearing"]

NEAR = 0.5
"""Precedents whose mean is less close (cosine) to the text's are not compared word by word."""
CLEARED, FORBIDDEN = (0.65, 0.8), (0.55, 0.7)
"""The cosine of a word with its like: at most the first it has none, from the second on it surely has. To let a text
pass takes more than to stop it. Of 3,215 pairs of a safe and a harmful text of dev with a cosine above .5 one reaches
.65, of 3,209 the other way round ten reach .55, most of them of two or three words; paraphrases of a text keep .7 to .8
in their least fitting word.
"""
WEIGHT = 20.0
"""Logits: what a precedent with the same words moves; more than any score of the head."""


@dataclass(frozen=True)
class Case:
    """One decided text: the unit means of its windows (windows x dimensions), the unit vectors of its pieces (pieces x
    dimensions), and the ids of its first window's pieces."""

    means: Vectors
    pieces: Vectors
    ids: Sequence[int]


class Cases:
    """Texts as they are compared, each read once, however many categories and surfaces have it."""

    def __init__(self, model: Model) -> None:
        self._windows = cache(lambda text, room: tuple(map(tuple, text_windows(text, model, room))))
        self._case = cache(lambda windows: _case(model, list(map(Window, windows))))

    def of(self, texts: Iterable[str], room: int) -> list[Case]:
        """The precedents `texts` in windows of `room` pieces; texts without a word are none."""
        return [self._case(windows) for text in texts if (windows := self._windows(text, room))]


def _case(model: Model, windows: Sequence[Window]) -> Case:
    import numpy as np

    read = [model.encoder.encode(windows[start : start + BATCH]) for start in range(0, len(windows), BATCH)]
    pieces = [_judged(each, row) for each in read for row in range(len(each.tokens))]
    return Case(np.concatenate([each.vectors for each in read]), np.concatenate(pieces), windows[0].content)


class Precedents:
    """The precedents of one label, by category (columns)."""

    def __init__(self, by_category: Sequence[Sequence[Case]]) -> None:
        import numpy as np

        self.columns = len(by_category)
        self._cases = [(column, case) for column, cases in enumerate(by_category) for case in cases]
        self._having = [column for column, cases in enumerate(by_category) if cases]
        self._first_case = np.cumsum([0, *(len(cases) for cases in by_category if cases)])[:-1]
        self._first_mean = np.cumsum([0, *(len(case.means) for _, case in self._cases)])[:-1]
        self._means = np.concatenate([case.means for _, case in self._cases]) if self._cases else None

    def closeness(self, texts: Vectors) -> Vectors:
        """Windows by precedents: the cosines of the unit means `texts` with the closest window of each precedent."""
        import numpy as np

        if self._means is None:
            return np.zeros((len(texts), 0), np.float32)
        return np.maximum.reduceat(texts @ self._means.T, self._first_mean, axis=1)

    def nearest(self, closeness: Vectors) -> Vectors:
        """Windows by categories: the cosine with the nearest precedent, 0 where a category has none."""
        import numpy as np

        cosines = np.zeros((len(closeness), self.columns), np.float32)
        if self._cases:
            cosines[:, self._having] = np.maximum.reduceat(closeness, self._first_case, axis=1)
        return cosines

    def like(self, closeness: Vectors) -> list[tuple[int, Case]]:
        """The precedents, each with its column, that may be like one window."""
        return [each for each, cosine in zip(self._cases, closeness.tolist(), strict=True) if cosine >= NEAR]

    def in_words(self, ids: Sequence[int]) -> Iterator[int]:
        """The columns that have a precedent of which every word stands in `ids`, in its order and without a gap."""
        present = set(ids)
        return (column for column, case in self._cases if case.ids[0] in present and _holds(ids, case.ids))


def bearing(read: Encoded, unsafe: Precedents, safe: Precedents, close: tuple[Vectors, Vectors]) -> Vectors:
    """Windows by categories: the logits that precedents with the text's words add. `close` is the closeness of the
    windows to the unsafe and to the safe ones."""
    import numpy as np

    logits = np.zeros((len(read.tokens), unsafe.columns), np.float32)
    for row, ids in enumerate(read.content):
        stops, clears = (np.zeros(unsafe.columns, np.float32) for _ in range(2))
        against, on_behalf = unsafe.like(close[0][row]), safe.like(close[1][row])
        pieces = _judged(read, row)
        for column, case in against:
            stops[column] = max(stops[column], _share(_least_like(case.pieces, pieces), FORBIDDEN))
        for column, case in on_behalf:
            clears[column] = max(clears[column], _share(_least_like(pieces, case.pieces), CLEARED))
        stops[list(unsafe.in_words(ids))] = 1.0
        logits[row] = WEIGHT * (stops - clears)
    return logits


def _holds(ids: Sequence[int], part: Sequence[int]) -> bool:
    """Whether `part` stands in `ids`, in its order and without a gap."""
    starts = range(len(ids) - len(part) + 1)
    return any(ids[start] == part[0] and list(ids[start : start + len(part)]) == list(part) for start in starts)


def _least_like(pieces: Vectors, others: Vectors) -> float:
    """The cosine with its like among `others` of that one of `pieces` which fits worst."""
    return float((pieces @ others.T).max(axis=1).min())


def _share(cosine: float, between: tuple[float, float]) -> float:
    """How far `cosine` has come between the two bounds: 0 to 1."""
    low, high = between
    return min(1.0, max(0.0, (cosine - low) / (high - low)))


def _judged(read: Encoded, row: int) -> Vectors:
    """The unit vectors of a window's pieces that are judged."""
    import numpy as np

    pieces = read.tokens[row][read.mask[row] > 0]
    unit: Vectors = pieces / np.maximum(np.linalg.norm(pieces, axis=1, keepdims=True), 1e-12)
    return unit
