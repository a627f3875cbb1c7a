"""Figures with bootstrap intervals (percentile, rows resampled), all from one weighted form.

A bootstrap replicate is a weight per row (how often it was drawn); the figure itself has weight 1 everywhere. So every
figure is computed for many replicates at once, as sums over rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS", "Bools", "Estimate", "Outcomes", "best_threshold", "curve", "estimates", "figures", "macro", "rates",
    "ratio", "reliability",
]  # fmt: skip

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Replicates: TypeAlias = dict[str, Floats]
"""By figure: its value for each replicate, NaN where it isn't defined."""

BINS = 15
CELLS = 2_000_000
"""Most numbers in one block of weights: 16 MB."""
LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rows side by side. `unsafe` is the label, `scores` probabilities, `flagged` the decision at the threshold;
    `category` is 1 where the likeliest category is one of the row's, 0 where not, NaN where it can't be told."""

    unsafe: Bools
    scores: Floats
    flagged: Bools
    category: Floats

    def __len__(self) -> int:
        return len(self.unsafe)

    @property
    def two_sided(self) -> bool:
        return bool(self.unsafe.any() and not self.unsafe.all())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval, and the replicates it comes from."""

    value: float
    replicates: Floats

    @property
    def interval(self) -> tuple[float, float]:
        known = self.replicates[~np.isnan(self.replicates)]
        if not len(known):
            return float("nan"), float("nan")
        low, high = np.percentile(known, LEVEL)
        return float(low), float(high)

    def as_json(self) -> dict[str, float | None]:
        low, high = self.interval
        return {"value": _finite(self.value), "low": _finite(low), "high": _finite(high)}


def _finite(number: float) -> float | None:
    return round(number, 6) if np.isfinite(number) else None


def estimates(outcomes: Outcomes, replicates: int, seed: int, name: str = "") -> dict[str, Estimate]:
    """Every figure that `outcomes` allow: with one label only, their one rate. `name` keeps draws of slices apart."""
    if not len(outcomes):
        return {}
    return rates(lambda weights: figures(outcomes, weights), len(outcomes), replicates, seed, name)


def rates(
    of: Callable[[Floats], Replicates], rows: int, replicates: int, seed: int, name: str = ""
) -> dict[str, Estimate]:
    """The figures that `of` gives for weights (replicates by `rows`), as estimates."""
    exact = of(np.ones((1, rows)))
    blocks = [of(weights) for weights in _weights(rows, replicates, seed, name)]
    return {
        key: Estimate(float(value[0]), np.concatenate([block[key] for block in blocks]) if blocks else np.empty(0))
        for key, value in exact.items()
    }


def macro(parts: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """The plain mean of each figure over those parts where it is defined; parts are resampled one by one."""
    found: dict[str, Estimate] = {}
    for key in sorted({key for part in parts.values() for key in part}):
        known = [part[key] for part in parts.values() if key in part and np.isfinite(part[key].value)]
        if known:
            drawn = np.stack([estimate.replicates for estimate in known])
            found[key] = Estimate(float(np.mean([each.value for each in known])), _mean_of_known(drawn))
    return found


def _mean_of_known(drawn: Floats) -> Floats:
    counts = (~np.isnan(drawn)).sum(axis=0)
    return ratio(np.nansum(drawn, axis=0), counts.astype(np.float64))


def _weights(rows: int, replicates: int, seed: int, name: str) -> Iterator[Floats]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    block = max(1, CELLS // rows)
    for start in range(0, replicates, block):
        count = min(block, replicates - start)
        drawn = rng.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def figures(outcomes: Outcomes, weights: Floats) -> Replicates:
    """Every figure, for each line of `weights`: replicates by rows, how often each row counts."""
    unsafe = weights * outcomes.unsafe
    positives = unsafe.sum(axis=1)
    negatives = weights.sum(axis=1) - positives
    caught = unsafe @ outcomes.flagged
    alarms = weights @ outcomes.flagged - caught
    recall, fpr = {"recall": ratio(caught, positives)}, {"fpr": ratio(alarms, negatives)}
    if not outcomes.two_sided:
        return recall if outcomes.unsafe.all() else fpr
    return {
        "precision": ratio(caught, caught + alarms),
        **recall,
        "f1": ratio(2 * caught, caught + alarms + positives),
        **fpr,
        **_ranking(outcomes, weights),
        **_calibration(outcomes, weights),
        **_category_accuracy(outcomes, weights),
    }


def _category_accuracy(outcomes: Outcomes, weights: Floats) -> Replicates:
    known = ~np.isnan(outcomes.category)
    if not known.any():
        return {}
    return {"category_accuracy": ratio(weights[:, known] @ outcomes.category[known], weights[:, known].sum(axis=1))}


def ratio(above: Floats, below: Floats) -> Floats:
    """One by the other, NaN where the lower is nothing."""
    quotient: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return quotient


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Rows from the highest score down; `ends` are the last places of equal scores."""

    order: NDArray[np.intp]
    ends: NDArray[np.intp]
    scores: Floats


def _ranked(scores: Floats) -> _Ranked:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return _Ranked(order, ends, ranked[ends])


def _cumulated(outcomes: Outcomes, weights: Floats, ranked: _Ranked) -> tuple[Floats, Floats]:
    """Unsafe and safe weight at each distinct score and above."""
    ordered = weights[:, ranked.order]
    unsafe = np.cumsum(ordered * outcomes.unsafe[ranked.order], axis=1)[:, ranked.ends]
    return unsafe, np.cumsum(ordered, axis=1)[:, ranked.ends] - unsafe


def _ranking(outcomes: Outcomes, weights: Floats) -> Replicates:
    """Best F1 over all thresholds, the area under the ROC curve, and average precision (no interpolation)."""
    ranked = _ranked(outcomes.scores)
    caught, alarms = _cumulated(outcomes, weights, ranked)
    positives, negatives = caught[:, -1:], alarms[:, -1:]
    gained = np.diff(caught, axis=1, prepend=0.0)
    width = np.diff(alarms, axis=1, prepend=0.0)
    area = (width * (caught - gained / 2)).sum(axis=1)
    precision = np.nan_to_num(ratio(caught, caught + alarms))
    f1 = np.nan_to_num(ratio(2 * caught, caught + alarms + positives))[:, ranked.scores > 0]
    return {
        "best_f1": f1.max(axis=1, initial=0.0),
        "auroc": ratio(area, (positives * negatives)[:, 0]),
        "auprc": ratio((gained * precision).sum(axis=1), positives[:, 0]),
    }


def best_threshold(outcomes: Outcomes) -> float | None:
    """A threshold above which flagging gives the best F1: half-way between two scores. None without both labels."""
    if not outcomes.two_sided:
        return None
    ranked = _ranked(outcomes.scores)
    caught, alarms = (part[0] for part in _cumulated(outcomes, np.ones((1, len(outcomes))), ranked))
    f1 = np.where(ranked.scores > 0, 2 * caught / (caught + alarms + caught[-1]), -1.0)
    place = int(f1.argmax())
    lower = ranked.scores[place + 1] if place + 1 < len(ranked.scores) else 0.0
    return float((ranked.scores[place] + lower) / 2)


def curve(outcomes: Outcomes, most: int = 400) -> list[tuple[float, float, float]]:
    """(threshold, precision, recall) from the strictest threshold to the laxest, `most` points at most."""
    ranked = _ranked(outcomes.scores)
    caught, alarms = (part[0] for part in _cumulated(outcomes, np.ones((1, len(outcomes))), ranked))
    places = np.unique(np.linspace(0, len(ranked.ends) - 1, min(most, len(ranked.ends))).round().astype(int))
    return [
        (float(ranked.scores[at]), float(caught[at] / (caught[at] + alarms[at])), float(caught[at] / caught[-1]))
        for at in places
    ]


def _bins(scores: Floats) -> NDArray[np.intp]:
    return np.minimum((scores * BINS).astype(np.intp), BINS - 1)


def _calibration(outcomes: Outcomes, weights: Floats) -> Replicates:
    """Brier score, and the expected calibration error over `BINS` bins of equal width."""
    error = outcomes.scores - outcomes.unsafe
    members = np.eye(BINS)[_bins(outcomes.scores)]
    total = weights.sum(axis=1)
    return {
        "brier": ratio(weights @ error**2, total),
        "ece": ratio(np.abs(weights @ (members * error[:, None])).sum(axis=1), total),
    }


def reliability(outcomes: Outcomes) -> list[dict[str, Any]]:
    """The bins of the reliability diagram that hold rows: mean score, share that is unsafe, rows."""
    places = _bins(outcomes.scores)
    return [
        {"score": float(outcomes.scores[here].mean()), "unsafe": float(outcomes.unsafe[here].mean()),
         "rows": int(here.sum())}
        for here in (places == place for place in range(BINS))
        if here.any()
    ]  # fmt: skip
