"""Figures against cases worked out by hand, and against their definitions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from guardmw.evaluation.metrics import (
    Estimate,
    Outcomes,
    best_threshold,
    curve,
    estimates,
    figures,
    macro,
    reliability,
)


def outcomes(scores: list[float], unsafe: list[int], category: list[float] | None = None) -> Outcomes:
    values = np.array(scores)
    right = np.array(category or [math.nan] * len(scores))
    return Outcomes(np.array(unsafe, dtype=bool), values, values > 0.5, right)


def values(of: Outcomes) -> dict[str, float]:
    return {key: estimate.value for key, estimate in estimates(of, 0, 0).items()}


HAND = outcomes([0.9, 0.8, 0.7, 0.2], [1, 0, 1, 0])


def test_a_case_worked_out_by_hand() -> None:
    assert values(HAND) == pytest.approx({
        "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "fpr": 0.5, "best_f1": 0.8,
        "auroc": 3 / 4,
        "auprc": 0.5 * 1 + 0.5 * 2 / 3,
        "brier": (0.01 + 0.64 + 0.09 + 0.04) / 4,
        "ece": (0.1 + 0.8 + 0.3 + 0.2) / 4,
    })  # fmt: skip
    assert best_threshold(HAND) == pytest.approx(0.45)
    assert curve(HAND) == [(0.9, 1.0, 0.5), (0.8, 0.5, 0.5), (0.7, pytest.approx(2 / 3), 1.0), (0.2, 0.5, 1.0)]


def test_equal_scores_are_one_step() -> None:
    found = values(outcomes([0.6, 0.6], [1, 0]))
    assert (found["auroc"], found["auprc"], found["ece"]) == pytest.approx((0.5, 0.5, 0.1))


def test_what_got_no_score_is_never_flagged_by_a_better_threshold() -> None:
    """A threshold above 0 can't flag a score of 0, so the best F1 must not count on it."""
    of = outcomes([0.9, 0.0, 0.0], [1, 1, 0])
    assert values(of)["best_f1"] == pytest.approx(2 / 3)
    assert best_threshold(of) == pytest.approx(0.45)


def test_one_sided_rows_have_their_one_rate() -> None:
    assert values(outcomes([0.9, 0.1], [1, 1])) == {"recall": 0.5}
    assert values(outcomes([0.9, 0.1, 0.2, 0.3], [0, 0, 0, 0])) == {"fpr": 0.25}
    assert best_threshold(outcomes([0.9], [1])) is None
    assert estimates(outcomes([], []), 10, 0) == {}


def test_nothing_flagged_has_no_precision() -> None:
    found = estimates(outcomes([0.1, 0.2], [1, 0]), 20, 0)
    assert math.isnan(found["precision"].value)
    assert found["precision"].as_json() == {"value": None, "low": None, "high": None}
    assert found["f1"].value == 0


def test_category_accuracy_is_about_rows_that_can_tell() -> None:
    assert values(outcomes([0.9, 0.8, 0.7, 0.1], [1, 1, 1, 0], [1, 0, math.nan, math.nan]))["category_accuracy"] == 0.5
    assert "category_accuracy" not in values(HAND)


def test_calibration_bins_hold_every_row() -> None:
    bins = reliability(outcomes([0.0, 0.02, 0.5, 1.0], [0, 1, 1, 1]))
    assert [each["rows"] for each in bins] == [2, 1, 1]
    assert [each["unsafe"] for each in bins] == [0.5, 1.0, 1.0]


ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.51, 0.9, 1.0]), st.booleans()), min_size=2, max_size=30
)


@given(ROWS)
def test_ranking_figures_are_what_their_definitions_say(rows: list[tuple[float, bool]]) -> None:
    positives = [score for score, unsafe in rows if unsafe]
    negatives = [score for score, unsafe in rows if not unsafe]
    assume(positives and negatives)
    found = values(outcomes([score for score, _ in rows], [unsafe for _, unsafe in rows]))
    wins = [(one > other) + (one == other) / 2 for one, other in product(positives, negatives)]
    assert found["auroc"] == pytest.approx(sum(wins) / len(wins))
    f1s = [0.0]
    for threshold in {score for score, _ in rows if score > 0}:
        caught, alarms = (sum(score >= threshold for score in part) for part in (positives, negatives))
        f1s.append(2 * caught / (caught + alarms + len(positives)))
    assert found["best_f1"] == pytest.approx(max(f1s))


@given(ROWS)
def test_the_best_threshold_gives_the_best_f1(rows: list[tuple[float, bool]]) -> None:
    of = outcomes([score for score, _ in rows], [unsafe for _, unsafe in rows])
    threshold = best_threshold(of)
    assume((of.scores > 0).any())
    if threshold is None:
        assert not of.two_sided
        return
    again = Outcomes(of.unsafe, of.scores, of.scores > threshold, of.category)
    assert values(again)["f1"] == pytest.approx(values(of)["best_f1"])


@given(ROWS, st.data())
def test_a_weight_counts_like_that_many_rows(rows: list[tuple[float, bool]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    repeated = [each for each, weight in zip(rows, weights, strict=True) for _ in range(weight)]
    assume(len({unsafe for _, unsafe in repeated}) == 2)
    of, many = (outcomes([score for score, _ in part], [unsafe for _, unsafe in part]) for part in (rows, repeated))
    weighted = {key: float(value[0]) for key, value in figures(of, np.array([weights], dtype=float)).items()}
    assert weighted == pytest.approx(values(many), nan_ok=True)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """The share of flagged safe rows is known here; 95% intervals should hold it about 19 times in 20."""
    rng, held = np.random.default_rng(5), 0
    for trial in range(200):
        flagged = rng.random(300) < 0.2
        of = Outcomes(np.zeros(300, dtype=bool), flagged.astype(float), flagged, np.full(300, np.nan))
        low, high = estimates(of, 300, trial)["fpr"].interval
        held += low <= 0.2 <= high
    assert 180 <= held <= 199


def test_intervals_follow_the_seed_and_the_name() -> None:
    rng = np.random.default_rng(0)
    of = outcomes(rng.random(200).tolist(), (rng.random(200) < 0.5).astype(int).tolist())
    one, same = (estimates(of, 50, 7, "a")["f1"].interval for _ in range(2))
    assert one == same
    assert one != estimates(of, 50, 7, "b")["f1"].interval
    assert one != estimates(of, 50, 8, "a")["f1"].interval


def test_blocks_of_replicates_are_all_there() -> None:
    size = 30_000
    of = outcomes([0.9] * size, [1] * size)
    assert len(estimates(of, 150, 0)["recall"].replicates) == 150


def test_macro_is_the_mean_over_sources_that_have_the_figure() -> None:
    def estimate(value: float, *drawn: float) -> Estimate:
        return Estimate(value, np.array(drawn))

    parts = {
        "a": {"recall": estimate(0.2, 0.1, 0.3), "f1": estimate(math.nan, math.nan, math.nan)},
        "b": {"recall": estimate(0.8, 0.7, math.nan)},
        "c": {"fpr": estimate(0.1, 0.1, 0.1)},
    }
    found = macro(parts)
    assert set(found) == {"recall", "fpr"}
    assert found["recall"].value == pytest.approx(0.5)
    assert found["recall"].replicates.tolist() == pytest.approx([0.4, 0.3])
