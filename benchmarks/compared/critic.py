"""A critic that names the source of a text, and an encoder that learns to leave it in the dark.

Most sources have one label, so whatever betrays the source betrays the label without any harm having been read. Domain
adversarial training (Ganin et al., arXiv 1505.07818).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from guardmw.train.corpus import Example
from guardmw.train.head import SCALE

__all__ = ["SourceCritic"]

HIDDEN = 128


class SourceCritic(nn.Module):
    """Guesses the source of each text from its unit vector. With `within_labels` it chooses among the sources that
    have texts of the same label, so hiding them does not draw harmful and harmless texts together. `strength` is how
    much hiding the source weighs beside all else that the encoder learns."""

    def __init__(self, examples: Sequence[Example], dimensions: int, within_labels: bool, strength: float) -> None:
        super().__init__()
        names = sorted({example.row.source for example in examples})
        places = {name: place for place, name in enumerate(names)}
        self._sources = torch.tensor([places[example.row.source] for example in examples])
        self._absent = torch.full((2, len(names)), within_labels)
        for example in examples:
            self._absent[int(example.row.unsafe), places[example.row.source]] = False
        self._strength = strength
        self.guess = nn.Sequential(nn.Linear(dimensions, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, len(names)))

    def loss(self, vectors: torch.Tensor, rows: NDArray[np.int64], unsafe: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the guesses for `vectors` (B x D) of the texts at `rows`; its gradient teaches the critic to
        guess and, turned round, whatever made the vectors to prevent it."""
        guesses: torch.Tensor = self.guess(_turned(vectors, self._strength) * SCALE)
        absent = self._absent.to(vectors.device)[unsafe.long()]
        sources = self._sources[rows].to(vectors.device)
        return nn.functional.cross_entropy(guesses.masked_fill(absent, -torch.inf), sources)


def _turned(values: torch.Tensor, strength: float) -> torch.Tensor:
    """`values`, through which gradients pass with the opposite sign."""
    return (values * (1 + strength)).detach() - values * strength
