"""Calibrating trained weights under real policies, and what they reach on texts they were not trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardmw.guard.calibration import Calibration
from guardmw.guard.embedded import CategoryVectors, PolicyVectors
from guardmw.guard.encoder import BATCH, Encoded, Model, TextEncoder, Window
from guardmw.guard.precedents import Precedents
from guardmw.guard.reading import cut
from guardmw.policy.schema import Policy
from guardmw.train.corpus import ORDINARY, Corpus, Example
from guardmw.train.dataset import DatasetError
from guardmw.train.pairs import NO, YES, CategoryText
from guardmw.types import SURFACES, Surface

__all__ = ["Calibrations", "Scores", "calibrate", "check_dev", "measure", "score", "shift_by_quantisation"]

Vectors = NDArray[np.float32]
TEMPERATURES = np.geomspace(0.25, 8.0, 61)
NARROW: Surface = "tool_result"
"""The surface that is read in narrow windows."""
FEWEST = 40
"""Sources with fewer examples say too little about a rate of a few per cent."""


@dataclass(frozen=True)
class Scores:
    """The highest logits of examples over their windows: by policy under any of its categories on the example's
    surface (-inf where there are none), and under each of the training's categories (examples x categories). `narrow`
    are the highest by policy where ordinary examples are read as tools' results are, in narrower windows."""

    highest: Mapping[str, Vectors]
    narrow: Mapping[str, Vectors]
    pairs: Vectors
    sources: NDArray[np.str_]
    surfaces: NDArray[np.str_]
    unsafe: NDArray[np.bool_]


def score(
    model: Model, encoder: TextEncoder, policies: Sequence[Policy], texts: Sequence[CategoryText],
    examples: Sequence[Example],
) -> Scores:  # fmt: skip
    """Judges `examples` as the guard does, with `encoder` (the exact one, or the one that ships)."""
    categories = model.encode_texts(text.text for text in texts)
    none = Precedents([()] * len(texts))
    general = CategoryVectors(categories, none, none)
    vectors = {policy.id: PolicyVectors(model, policy) for policy in policies}
    highest, narrow = (
        {policy.id: np.full(len(examples), -np.inf, dtype=np.float32) for policy in policies} for _ in range(2)
    )
    pairs = np.full((len(examples), len(texts)), -np.inf, dtype=np.float32)
    narrow_room = model.manifest.windows.room_on(NARROW)
    for place, example in enumerate(examples):
        surface = SURFACES[example.surface]
        read = _read(model, encoder, example, surface)
        cut_anew = example.row.source.startswith(ORDINARY) and len(example.content) > narrow_room
        read_narrowly = _read(model, encoder, example, NARROW) if cut_anew else read
        if texts:
            pairs[place] = _highest(model, read, general, surface)
        for policy in policies:
            if policy.categories_on(surface):
                under = vectors[policy.id].on(surface)
                highest[policy.id][place] = _highest(model, read, under, surface).max()
                narrow[policy.id][place] = _highest(model, read_narrowly, under, surface).max()
    return Scores(
        highest, narrow, pairs, np.array([example.row.source for example in examples]),
        np.array([SURFACES[example.surface] for example in examples]),
        np.array([example.row.unsafe for example in examples]),
    )  # fmt: skip


def _read(model: Model, encoder: TextEncoder, example: Example, surface: Surface) -> list[Encoded]:
    """The windows in which `example` is read on `surface`."""
    room, overlap = model.manifest.windows.room_on(surface), model.manifest.windows.overlap
    windows = [Window(pieces, example.context) for pieces in cut(example.content, room, overlap)]
    return [encoder.encode(windows[start : start + BATCH]) for start in range(0, len(windows), BATCH)]


def _highest(model: Model, read: Sequence[Encoded], vectors: CategoryVectors, surface: Surface) -> Vectors:
    """The highest logit over the windows `read`, by category."""
    highest: Vectors = np.max([vectors.logits(model, each, surface).max(axis=0) for each in read], axis=0)
    return highest


@dataclass(frozen=True)
class Calibrations:
    """`overall`, and those of surfaces of which dev holds benign texts that some policy judges."""

    overall: Calibration
    surfaces: dict[Surface, Calibration]

    def probabilities(self, logits: Vectors, surfaces: NDArray[np.str_]) -> NDArray[np.float64]:
        """The probabilities of `logits` on `surfaces`; 0 where a logit is -inf. Raises ValueError for other numbers
        that aren't finite."""
        return np.array([
            0.0 if logit == -math.inf else self.surfaces.get(surface, self.overall).probability(logit)
            for logit, surface in zip(logits.tolist(), surfaces.tolist(), strict=True)
        ])  # fmt: skip


def calibrate(scores: Scores, dev: Corpus, false_positives: float) -> Calibrations:
    """The calibrations with which at most `false_positives` of the benign examples (those on each surface that has any,
    elsewhere all of them), a source weighing with the square root of its size, reach 0.5 under any one policy, and of
    those the ones whose probabilities fit the labels best. The benign examples count as read in narrow windows, since
    streams are; in wide ones fewer reach 0.5.

    `scores` are those of the examples of `dev`. The fit is the least cross-entropy, both answers weighing alike; all
    share its temperature. Raises DatasetError as `check_dev` does.
    """
    check_dev(dev)
    overall = _bias(scores, np.full(len(scores.unsafe), True), false_positives)
    biases = {surface: _bias(scores, among, false_positives) for surface, among in _benign_surfaces(scores)}
    added = np.array([biases.get(surface, overall) for surface in scores.surfaces.tolist()], dtype=np.float32)
    labels, moved = _labels(dev), scores.pairs + added[:, None]
    yes, no = moved[labels == YES], moved[labels == NO]

    def cross_entropy(temperature: float) -> float:
        return float(sum(np.logaddexp(0, sign * part / temperature).mean() for part, sign in ((yes, -1), (no, 1))))

    temperature = float(min(TEMPERATURES, key=cross_entropy))
    return Calibrations(
        Calibration(temperature=temperature, bias=overall),
        {surface: Calibration(temperature=temperature, bias=bias) for surface, bias in biases.items()},
    )


def _benign_surfaces(scores: Scores) -> Iterator[tuple[Surface, NDArray[np.bool_]]]:
    """The surfaces with benign examples that some policy judges, and which examples are met there."""
    for surface in SURFACES:
        among = scores.surfaces == surface
        judged = any(np.isfinite(logits[among]).any() for logits in scores.highest.values())
        if judged and _sizes(scores.sources[among].tolist()):
            yield surface, among


def _bias(scores: Scores, among: NDArray[np.bool_], false_positives: float) -> float:
    counts = _sizes(scores.sources[among].tolist())
    benign = among & np.isin(scores.sources, list(counts))
    weights = np.array([counts[source] ** -0.5 for source in scores.sources[benign].tolist()])
    return -max(_above_all_but(false_positives, logits[benign], weights) for logits in scores.narrow.values())


def check_dev(dev: Corpus) -> None:
    """Raises DatasetError when dev has no benign source of some size, or texts with one answer only: nothing could be
    calibrated on it."""
    if not _sizes(example.row.source for example in dev.examples):
        raise DatasetError(f"dev holds no source {ORDINARY}* with {FEWEST} texts: nothing says how often to be wrong")
    _labels(dev)


def _sizes(sources: Iterable[str]) -> dict[str, int]:
    """The benign sources of some size, and how many texts each has."""
    return {source: n for source, n in Counter(sources).items() if source.startswith(ORDINARY) and n >= FEWEST}


def _labels(dev: Corpus) -> NDArray[np.int8]:
    """Examples by categories."""
    labels = dev.labels[[example.kind for example in dev.examples]]
    for label, what in ((YES, "falls under"), (NO, "doesn't fall under")):
        if not (labels == label).any():
            raise DatasetError(f"dev holds no text that {what} a category: nothing says how sure to be")
    return labels


def measure(scores: Scores, calibrations: Calibrations) -> dict[str, Any]:
    """By policy, the shares of each source's examples that reach 0.5 under any of its categories: `recall` of the
    unsafe ones (of which a policy may rightly allow some), `false_positives` of the safe ones."""
    figures: dict[str, Any] = {}
    for policy, logits in scores.highest.items():
        over = calibrations.probabilities(logits, scores.surfaces) >= 0.5
        figures[policy] = {
            name: {
                source: round(float(np.mean(over[among & (scores.sources == source)])), 4)
                for source in sorted(map(str, set(scores.sources[among])))
            }
            for name, among in (("recall", scores.unsafe), ("false_positives", ~scores.unsafe))
        }
    return figures


def shift_by_quantisation(exact: NDArray[np.float64], quantised: NDArray[np.float64]) -> dict[str, float]:
    """How far probabilities move between vectors in single precision and those of the int8 encoder."""
    moved = np.abs(exact - quantised)
    return {"mean": round(float(moved.mean()), 5), "max": round(float(moved.max()), 5)}


def _above_all_but(share: float, logits: Vectors, weights: NDArray[np.float64]) -> float:
    """The lowest number that at most `share` of `logits`, by weight, reach."""
    order = np.argsort(-logits)
    too_many = np.cumsum(weights[order]) > share * weights.sum()
    return float(np.nextafter(logits[order][np.argmax(too_many)], np.float32(np.inf)))
