"""Calibrating a trained head, and what it reaches on texts it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from guardmw.guard.calibration import Calibration
from guardmw.train.examples import Examples
from guardmw.train.head import Head
from guardmw.train.pairs import NO, YES
from guardmw.types import SURFACES

__all__ = ["calibrate", "logits_of", "measure", "quantisation"]

Vectors = NDArray[np.float32]
BATCH = 512
TEMPERATURES = np.geomspace(0.25, 8.0, 61)


def logits_of(head: Head, texts: Vectors, categories: Vectors, surfaces: NDArray[np.int64]) -> Vectors:
    """Texts by categories, without precedents."""
    rows = []
    columns = torch.from_numpy(categories)
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            batch = slice(start, start + BATCH)
            none = torch.zeros(len(texts[batch]), len(categories))
            one_hot = nn.functional.one_hot(torch.from_numpy(surfaces[batch]), len(SURFACES)).float()
            rows.append(head.both(torch.from_numpy(texts[batch]), columns, none, none, one_hot)[0].numpy())
    return np.concatenate(rows)


def calibrate(logits: Vectors, examples: Examples, columns: Sequence[int], false_positives: float) -> Calibration:
    """The calibration with which at most `false_positives` of the benign examples reach 0.5 under any of `columns`,
    and of those the one whose probabilities fit the labels best (least cross-entropy, both answers weighing alike)."""
    highest = logits[examples.benign][:, list(columns)].max(axis=1)
    bias = -float(np.quantile(highest, 1 - false_positives, method="higher"))
    yes, no = logits[examples.labels == YES], logits[examples.labels == NO]

    def cross_entropy(temperature: float) -> float:
        losses = [np.logaddexp(0, sign * (part + bias) / temperature).mean() for part, sign in ((yes, -1), (no, 1))]
        return float(sum(losses))

    return Calibration(temperature=float(min(TEMPERATURES, key=cross_entropy)), bias=bias)


def measure(logits: Vectors, examples: Examples, columns: Sequence[int], calibration: Calibration) -> dict[str, Any]:
    """Shares per source at the probability 0.5: `recall` of unsafe texts found under any category that is theirs,
    `recall_any` under any of `columns`, `false_positives` of safe texts that reach it under any of `columns`."""
    over = logits + calibration.bias >= 0
    any_column = over[:, list(columns)].any(axis=1)
    own = (over & (examples.labels == YES)).any(axis=1)
    unsafe = np.array([row.unsafe for row in examples.rows])
    sources = np.array([row.source for row in examples.rows])

    def shares(hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> dict[str, float]:
        by_source = {source: hits[among & (sources == source)] for source in sorted(set(sources[among]))}
        return {source: round(float(found.mean()), 4) for source, found in by_source.items()} | {
            "all": round(float(hits[among].mean()), 4)
        }

    return {
        "recall": shares(own, unsafe),
        "recall_any": shares(any_column, unsafe),
        "false_positives": shares(any_column, ~unsafe),
        "benign": round(float(any_column[examples.benign].mean()), 4),
    }


def quantisation(score: Callable[[Vectors], Vectors], exact: Vectors, quantised: Vectors, calibration: Calibration) -> dict[str, float]:
    """How far probabilities move from the encoder in single precision to the one that ships: `score` gives the logits
    of vectors of the same texts, `exact` and `quantised`."""
    before, after = (1 / (1 + np.exp(-(score(part) + calibration.bias) / calibration.temperature)) for part in (exact, quantised))
    moved = np.abs(before - after)
    return {"mean": round(float(moved.mean()), 5), "max": round(float(moved.max()), 5)}
