"""Precedents: texts that a policy's author has decided, and what they say about a text at hand.

A sentence's mean vector can't be trusted with that: a letter and the same letter with one planted order lie at a cosine
of .996. So the words are compared one by one (late interaction, cf. Khattab & Zaharia, ColBERT, arXiv 2004.12832): a
safe precedent speaks for a text in which no word is without its like in the precedent, an unsafe one against a text
that has the like of each of its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardmw.guard.encoder import Encoded, Window
from guardmw.guard.lookalikes import as_read

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
WEIGHT = 12.0
"""Logits: what a precedent with the same words moves; more than any score of the head."""


@dataclass(frozen=True)
class Precedents:
    """Those of one category and label: the unit mean of each (precedents x dimensions), and of each the unit vectors of
    its pieces (pieces x dimensions)."""

    means: Vectors
    pieces: tuple[Vectors, ...]

    @classmethod
    def read(cls, model: Model, texts: Iterable[str]) -> Precedents:
        """Each text is read up to the first window's end."""
        import numpy as np

        limit = model.manifest.windows.size - 2
        windows = [Window(ids) for text in texts if (ids := model.words.ids(as_read(text))[:limit])]
        read = [model.encoder.encode([window]) for window in windows]
        means = [each.vectors for each in read]
        return cls(
            np.concatenate(means) if means else np.zeros((0, model.manifest.dimensions), np.float32),
            tuple(_judged(each, 0) for each in read),
        )


def nearest(read: Encoded, precedents: Sequence[Precedents]) -> Vectors:
    """Windows by categories: the cosine with the nearest precedent, 0 where a category has none."""
    import numpy as np

    texts = read.vectors
    columns = [
        (texts @ each.means.T).max(axis=1) if len(each.means) else np.zeros(len(texts), np.float32)
        for each in precedents
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def bearing(read: Encoded, unsafe: Sequence[Precedents], safe: Sequence[Precedents]) -> Vectors:
    """Windows by categories: the logits that precedents with the text's words add."""
    import numpy as np

    logits = np.zeros((len(read.tokens), len(unsafe)), np.float32)
    for row, text in enumerate(read.vectors):
        pieces = _judged(read, row)
        for column, (against, on_behalf) in enumerate(zip(unsafe, safe, strict=True)):
            contained = max((_least_like(case, pieces) for case in _near(text, against)), default=0.0)
            covered = max((_least_like(pieces, case) for case in _near(text, on_behalf)), default=0.0)
            logits[row, column] = WEIGHT * (_share(contained, FORBIDDEN) - _share(covered, CLEARED))
    return logits


def _near(text: Vectors, precedents: Precedents) -> list[Vectors]:
    cosines = precedents.means @ text
    return [pieces for pieces, cosine in zip(precedents.pieces, cosines, strict=True) if cosine >= NEAR]


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
