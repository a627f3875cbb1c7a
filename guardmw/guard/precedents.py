"""Precedents: texts that a policy's author has decided, and what they say about a text at hand.

A sentence's mean vector can't be trusted with that: a letter and the same letter with one planted order lie at a cosine
of .996. So the words are compared one by one (late interaction, cf. Khattab & Zaharia, ColBERT, arXiv 2004.12832): a
safe precedent speaks for a text in which no word is without its like in the precedent, an unsafe one against a text
that has the like of each of its words. Vectors of words know their neighbours: in a longer text only the precedent's
own words, in their order, are sure to be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardmw.guard.encoder import BATCH, Encoded, Window
from guardmw.guard.reading import text_windows

if TYPE_CHECKING:
    from guardmw.guard.encoder import Model, Vectors

__all__ = ["Precedents", "bearing", "nearest"]

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


class Precedents:
    """Those of one category and label."""

    def __init__(self, model: Model, texts: Iterable[str]) -> None:
        self.cases = [
            _case(model, windows)
            for text in texts
            if (windows := [Window(pieces) for pieces in text_windows(text, model)])
        ]

    def near(self, text: Vectors) -> list[Case]:
        """Those that may be like a window with the unit mean `text`."""
        return [case for case in self.cases if (case.means @ text).max() >= NEAR]


def _case(model: Model, windows: Sequence[Window]) -> Case:
    import numpy as np

    read = [model.encoder.encode(windows[start : start + BATCH]) for start in range(0, len(windows), BATCH)]
    pieces = [_judged(each, row) for each in read for row in range(len(each.tokens))]
    return Case(np.concatenate([each.vectors for each in read]), np.concatenate(pieces), windows[0].content)


def nearest(read: Encoded, precedents: Sequence[Precedents]) -> Vectors:
    """Windows by categories: the cosine with the nearest precedent, 0 where a category has none."""
    import numpy as np

    texts = read.vectors
    cosines = np.zeros((len(texts), len(precedents)), np.float32)
    for column, each in enumerate(precedents):
        if each.cases:
            cosines[:, column] = np.max([(texts @ case.means.T).max(axis=1) for case in each.cases], axis=0)
    return cosines


def bearing(read: Encoded, unsafe: Sequence[Precedents], safe: Sequence[Precedents]) -> Vectors:
    """Windows by categories: the logits that precedents with the text's words add."""
    import numpy as np

    logits = np.zeros((len(read.tokens), len(unsafe)), np.float32)
    decided = [column for column, both in enumerate(zip(unsafe, safe, strict=True)) if any(each.cases for each in both)]
    for row, text in enumerate(read.vectors):
        pieces, ids = _judged(read, row), read.content[row]
        for column in decided:
            against, on_behalf = unsafe[column], safe[column]
            said = any(_holds(ids, case.ids) for case in against.cases)
            contained = max((_least_like(case.pieces, pieces) for case in against.near(text)), default=0.0)
            covered = max((_least_like(pieces, case.pieces) for case in on_behalf.near(text)), default=0.0)
            stops = 1.0 if said else _share(contained, FORBIDDEN)
            logits[row, column] = WEIGHT * (stops - _share(covered, CLEARED))
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
