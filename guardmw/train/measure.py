"""Calibrating a trained head under real policies, and what it reaches on texts it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from guardmw.guard.calibration import Calibration
from guardmw.guard.embedded import PolicyVectors
from guardmw.guard.encoder import Model
from guardmw.policy.schema import Policy
from guardmw.train.examples import BENIGN, Examples
from guardmw.train.head import Head
from guardmw.train.pairs import NO, YES
from guardmw.types import SURFACES

__all__ = ["calibrate", "measure", "pair_logits", "policy_logits", "shift_by_quantisation"]

Vectors = NDArray[np.float32]
BATCH = 512
TEMPERATURES = np.geomspace(0.25, 8.0, 61)
FEWEST = 40
"""Sources with fewer examples say too little about a rate of a few per cent."""


def pair_logits(head: Head, examples: Examples, categories: Vectors) -> Vectors:
    """Examples by the training's categories, without precedents."""
    rows = []
    columns = torch.from_numpy(categories)
    with torch.no_grad():
        for start in range(0, len(examples.rows), BATCH):
            batch = slice(start, start + BATCH)
            texts = torch.from_numpy(examples.vectors[batch])
            none = torch.zeros(len(texts), len(categories))
            surfaces = nn.functional.one_hot(torch.from_numpy(examples.surfaces[batch]), len(SURFACES)).float()
            rows.append(head.both(texts, columns, none, none, surfaces)[0].numpy())
    return np.concatenate(rows)


def policy_logits(model: Model, policy: Policy, texts: Vectors, surfaces: NDArray[np.int64]) -> Vectors:
    """The highest logit of each text under the categories of `policy` on its surface; -inf where there are none."""
    vectors = PolicyVectors(model, policy)
    highest = np.full(len(texts), -np.inf, dtype=np.float32)
    for index in set(surfaces.tolist()):
        if policy.categories_on(SURFACES[index]):
            there = surfaces == index
            logits = vectors.on(SURFACES[index]).logits(model, texts[there], SURFACES[index])
            highest[there] = logits.max(axis=1)
    return highest


def calibrate(
    highest: Mapping[str, Vectors], pairs: Vectors, examples: Examples, false_positives: float
) -> Calibration:
    """The calibration with which at most `false_positives` of the examples of any benign source reach 0.5 under any
    policy, and of those the one whose probabilities fit the labels best.

    `highest` holds `policy_logits` by policy, `pairs` the `pair_logits`, both of `examples`. The fit is the least
    cross-entropy, both answers weighing alike.
    """
    limits = [
        np.quantile(logits[examples.sources == source], 1 - false_positives, method="higher")
        for logits in highest.values()
        for source in _common(examples)
        if source.startswith(BENIGN)
    ]
    bias = -float(max(limits))
    yes, no = pairs[examples.labels == YES], pairs[examples.labels == NO]

    def cross_entropy(temperature: float) -> float:
        losses = [np.logaddexp(0, sign * (part + bias) / temperature).mean() for part, sign in ((yes, -1), (no, 1))]
        return float(sum(losses))

    return Calibration(temperature=float(min(TEMPERATURES, key=cross_entropy)), bias=bias)


def measure(highest: Mapping[str, Vectors], examples: Examples, calibration: Calibration) -> dict[str, Any]:
    """By policy, the shares of each source's examples that reach 0.5 under any of its categories: `recall` of the
    unsafe ones (of which a policy may rightly allow some), `false_positives` of the safe ones."""
    figures: dict[str, Any] = {}
    for policy, logits in highest.items():
        over = logits >= -calibration.bias
        figures[policy] = {
            name: {
                source: round(float(np.mean(over[among & (examples.sources == source)])), 4)
                for source in sorted(map(str, set(examples.sources[among])))
            }
            for name, among in (("recall", examples.unsafe), ("false_positives", ~examples.unsafe))
        }
    return figures


def shift_by_quantisation(exact: Vectors, quantised: Vectors, calibration: Calibration) -> dict[str, float]:
    """How far probabilities move between the logits of vectors in single precision and those of the int8 encoder."""
    before, after = (np.vectorize(calibration.probability)(logits) for logits in (exact, quantised))
    moved = np.abs(before - after)
    return {"mean": round(float(moved.mean()), 5), "max": round(float(moved.max()), 5)}


def _common(examples: Examples) -> list[str]:
    sources, counts = np.unique(examples.sources, return_counts=True)
    return [str(source) for source, count in zip(sources, counts, strict=True) if count >= FEWEST]
