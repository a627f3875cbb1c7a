"""What training makes smaller: how wrong a head is about texts under categories."""

from __future__ import annotations

import torch
from torch import nn

from guardmw.train.pairs import NO, YES

__all__ = ["losses_of"]

HARDEST = 4
"""How many of a text's highest wrong categories weigh as much as all its others: what users feel is the maximum."""
CONFUSED = 0.25
"""What a harmful text's highest wrong categories weigh beside a harmless one's."""
FOUND = 1.5
"""What the likeliest category of a harmful text weighs beside all its pairs."""


def losses_of(logits: torch.Tensor, harm: torch.Tensor, labels: torch.Tensor, unsafe: torch.Tensor) -> torch.Tensor:
    """The loss of each text (row): cross-entropy of its pairs, of its highest wrong categories once more, of the
    likeliest category of an unsafe text, and of being harmful at all."""
    known = (labels >= 0).float()
    target = labels.clamp(min=0).float()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
    yes, no = (labels == YES).float(), (labels == NO).float()
    rows = (losses * yes).sum(1) / yes.sum(1).clamp(min=1) + (losses * no).sum(1) / no.sum(1).clamp(min=1)
    # To flag a harmful text under one category too many costs little; to flag a harmless one costs a user.
    hardest = (losses * no).topk(min(HARDEST, losses.shape[1]), dim=1).values.mean(1)
    rows = rows + torch.where(unsafe > 0, CONFUSED * hardest, hardest)
    # An unsafe text falls under some category, even where its label doesn't say which: the likeliest learns from it.
    likeliest = logits.masked_fill(labels == NO, -torch.inf).amax(1)
    found = (labels != NO).any(1) & (unsafe > 0)
    rows = rows + torch.where(found, FOUND * nn.functional.softplus(-likeliest), 0.0)
    return rows + 0.3 * nn.functional.binary_cross_entropy_with_logits(harm, unsafe, reduction="none")
