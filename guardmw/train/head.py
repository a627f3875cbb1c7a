"""The head: one logit for a pair of content and category, from their frozen vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from guardmw.train.pairs import NO, YES
from guardmw.types import SURFACES

__all__ = ["Head", "TrainingSet", "export_head", "train_head"]

INPUTS = ["content", "categories", "unsafe", "safe", "surface"]
HARDEST = 4
"""How many of a text's highest wrong categories weigh as much as all its others: what users feel is the maximum."""
PRECEDENT_SHARE = 0.5
"""How often a category has precedents while training."""
PRECEDENT_POOL = 16
OPSET = 17


class Head(nn.Module):
    """Scores windows (rows) under categories (columns).

    A pair is described by what the text is (through an MLP), what the category is, their products in a learned space,
    their cosine, the cosines with the nearest precedents, and how harmful the text is under no policy at all.
    """

    def __init__(self, dimensions: int, space: int = 128, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.text = nn.Sequential(
            nn.Dropout(dropout / 2), nn.Linear(dimensions + len(SURFACES), 256), nn.GELU(), nn.Dropout(dropout)
        )
        self.harm = nn.Linear(256, 1)
        self.project_text = nn.Linear(dimensions, space, bias=False)
        self.project_category = nn.Linear(dimensions, space, bias=False)
        self.from_text = nn.Linear(256, hidden)
        self.from_category = nn.Linear(space, hidden)
        self.from_pair = nn.Linear(space + 4, hidden)
        self.noise = nn.Dropout(dropout)
        self.out = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(
        self,
        content: torch.Tensor,
        categories: torch.Tensor,
        unsafe: torch.Tensor,
        safe: torch.Tensor,
        surface: torch.Tensor,
    ) -> torch.Tensor:
        return self.both(content, categories, unsafe, safe, surface.expand(content.shape[0], -1))[0]

    def both(
        self,
        content: torch.Tensor,
        categories: torch.Tensor,
        unsafe: torch.Tensor,
        safe: torch.Tensor,
        surfaces: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of the pairs, and of each text being harmful at all."""
        text = self.text(torch.cat([content * 20, surfaces], dim=1))
        harm = self.harm(text)
        category = self.project_category(categories * 20)
        products = self.project_text(content * 20).unsqueeze(1) * category.unsqueeze(0)
        cosine = content @ categories.T
        scalars = torch.stack([cosine * 4, unsafe * 4, safe * 4, harm.expand(-1, categories.shape[0]) / 4], dim=2)
        pair = self.from_pair(torch.cat([self.noise(products) / 4, scalars], dim=2))
        hidden = pair + self.from_text(text).unsqueeze(1) + self.from_category(self.noise(category)).unsqueeze(0)
        return self.out(hidden).squeeze(2), harm.squeeze(1)


@dataclass(frozen=True)
class TrainingSet:
    """Texts (rows) and categories (columns) as vectors, `labels` between them, and for each text its surface (an
    index into SURFACES), whether it is unsafe at all, and its weight."""

    texts: NDArray[np.float32]
    categories: NDArray[np.float32]
    labels: NDArray[np.int8]
    surfaces: NDArray[np.int64]
    unsafe: NDArray[np.bool_]
    weights: NDArray[np.float32]


def train_head(data: TrainingSet, *, epochs: int, seed: int, tell: Callable[[int, float], None], batch: int = 256,
               columns: int = 32, rate: float = 1e-3) -> Head:  # fmt: skip
    """A head trained for `epochs` passes; `tell(epoch, loss)` after each. The same seed gives the same head."""
    torch.manual_seed(seed)
    # On one thread sums keep their order, so that a seed gives the same head; the head is too small to gain by more.
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    head = Head(data.texts.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * (len(data.texts) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        total = 0.0
        order = rng.permutation(len(data.texts))
        for step in range(len(order) // batch):
            loss = _loss(head, data, order[step * batch : (step + 1) * batch], columns, rng)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        tell(epoch + 1, total / max(1, len(order) // batch))
    return head.eval()


def _loss(
    head: Head, data: TrainingSet, rows: NDArray[np.int64], columns: int, rng: np.random.Generator
) -> torch.Tensor:
    chosen = rng.choice(data.labels.shape[1], size=min(columns, data.labels.shape[1]), replace=False)
    labels = torch.from_numpy(data.labels[np.ix_(rows, chosen)].astype(np.float32))
    unsafe, safe = (_precedents(data, rows, chosen, label, rng) for label in (YES, NO))
    surfaces = data.surfaces[rows].copy()
    # Policies judge the same words on every surface: a text is sometimes met where its source never had it.
    elsewhere = rng.random(len(rows)) < 0.25
    surfaces[elsewhere] = rng.integers(0, len(SURFACES), int(elsewhere.sum()))
    logits, harm = head.both(
        torch.from_numpy(data.texts[rows]), torch.from_numpy(data.categories[chosen]), unsafe, safe,
        nn.functional.one_hot(torch.from_numpy(surfaces), len(SURFACES)).float(),
    )  # fmt: skip
    known = (labels >= 0).float()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none") * known
    for_it, against = losses * labels.clamp(min=0), losses * (labels == NO).float()
    per_row = for_it.sum(1) / (labels == YES).sum(1).clamp(min=1) + against.sum(1) / (labels == NO).sum(1).clamp(min=1)
    per_row = per_row + against.topk(HARDEST, dim=1).values.mean(1)
    # An unsafe text falls under some category, even where its label doesn't say which: the likeliest learns from it.
    likeliest = logits.masked_fill(labels == NO, -torch.inf).amax(1)
    found = (labels != NO).any(1) & torch.from_numpy(data.unsafe[rows])
    per_row = per_row + torch.where(found, nn.functional.softplus(-likeliest), 0.0)
    target = torch.from_numpy(data.unsafe[rows].astype(np.float32))
    per_row = per_row + 0.3 * nn.functional.binary_cross_entropy_with_logits(harm, target, reduction="none")
    weights = torch.from_numpy(data.weights[rows])
    return (per_row * weights).sum() / weights.sum()


def _precedents(
    data: TrainingSet, rows: NDArray[np.int64], chosen: NDArray[np.int64], label: int, rng: np.random.Generator
) -> torch.Tensor:
    """The cosines that precedents of this label would have: some categories get a few texts of the batch as theirs,
    of those that are closest to the category, as people pick them who write policies."""
    cosines = np.zeros((len(rows), len(chosen)), dtype=np.float32)
    texts = data.texts[rows]
    closeness = texts @ data.categories[chosen].T
    for column in np.flatnonzero(rng.random(len(chosen)) < PRECEDENT_SHARE):
        fitting = np.where(data.labels[rows, chosen[column]] == label, closeness[:, column], -np.inf)
        closest = np.argsort(-fitting)[: min(PRECEDENT_POOL, int(np.isfinite(fitting).sum()))]
        if len(closest):
            cases = rng.choice(closest, size=min(len(closest), int(rng.integers(1, 5))), replace=False)
            cosines[:, column] = (texts @ texts[cases].T).max(axis=1)
            # A case must not be recognised by being itself.
            cosines[cases, column] = np.median(cosines[:, column])
    return torch.from_numpy(cosines)


def export_head(head: Head, file: Path) -> None:
    """Write `head` as ONNX; the number of windows and of categories stays free."""
    windows, categories = 3, 2
    dimensions = head.project_text.in_features
    example = (
        torch.randn(windows, dimensions), torch.randn(categories, dimensions), torch.zeros(windows, categories),
        torch.zeros(windows, categories), torch.zeros(len(SURFACES)),
    )  # fmt: skip
    axes = {0: "windows", 1: "categories"}
    torch.onnx.export(
        head, example, str(file), dynamo=False, opset_version=OPSET, input_names=INPUTS, output_names=["logits"],
        dynamic_axes={"content": {0: "windows"}, "categories": {0: "categories"}} | dict.fromkeys(
            ("unsafe", "safe", "logits"), axes
        ),
    )  # fmt: skip
