"""Judged rows cut into slices: by file, source, task, taxonomy, source and task, and all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guardmw.evaluation.data import Sample
from guardmw.evaluation.judging import Judged
from guardmw.evaluation.metrics import Estimate, Outcomes, best_threshold, curve, estimates, reliability
from guardmw.train.dataset import UNSPECIFIED

__all__ = ["GROUPINGS", "Result", "Slice", "as_json", "grouped", "measured", "outcomes_of"]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Result:
    """A row and what the guard said about it."""

    sample: Sample
    judged: Judged

    @property
    def counts(self) -> bool:
        """False where the guard failed on a safe row: it says nothing about false positives. On an unsafe row it is a
        miss."""
        return not self.judged.failed or self.sample.row.unsafe


GROUPINGS: dict[str, Callable[[Sample], str]] = {
    "file": lambda sample: sample.file,
    "source": lambda sample: sample.row.source,
    "task": lambda sample: sample.row.task,
    "taxonomy": lambda sample: sample.row.policy,
    "source_task": lambda sample: f"{sample.row.source} / {sample.row.task}",
}


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows with their figures."""

    name: str
    results: Sequence[Result]
    outcomes: Outcomes
    figures: Mapping[str, Estimate]


def grouped(results: Sequence[Result], grouping: str) -> dict[str, list[Result]]:
    """The results by name of their slice, in order of the names."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(GROUPINGS[grouping](result.sample), []).append(result)
    return dict(sorted(groups.items()))


def measured(name: str, results: Sequence[Result], replicates: int, seed: int) -> Slice:
    """The figures of some rows. Equal `name` and `seed` give equal intervals, whatever else is measured."""
    outcomes = outcomes_of(results)
    return Slice(name, results, outcomes, estimates(outcomes, replicates, seed, name))


def outcomes_of(results: Sequence[Result]) -> Outcomes:
    """The rows that count, as numbers; one that the guard failed on has score 0 and is not flagged."""
    counting = [result for result in results if result.counts]
    return Outcomes(
        unsafe=np.array([result.sample.row.unsafe for result in counting], dtype=np.bool_),
        scores=np.array([_score(result.judged) for result in counting], dtype=np.float64),
        flagged=np.array([result.judged.unsafe for result in counting], dtype=np.bool_),
        category=np.array([_category_right(result) for result in counting], dtype=np.float64),
    )


def _score(judged: Judged) -> float:
    return 0.0 if judged.failed else judged.score


def _category_right(result: Result) -> float:
    """NaN for rows that say no category of the policy, and where there is but one to choose from."""
    row, ids = result.sample.row, result.sample.rules.ids
    wanted = {ids[name] for name in row.categories if name in ids and name != UNSPECIFIED}
    if not (row.unsafe and wanted) or len(ids) < 2:
        return NAN
    return float(not result.judged.failed and result.judged.top in wanted)


def as_json(part: Slice, *, curves: bool = False) -> dict[str, Any]:
    """What the report says about a slice."""
    found: dict[str, Any] = {
        "name": part.name,
        "rows": len(part.results),
        "unsafe": sum(result.sample.row.unsafe for result in part.results),
        "errors": errors_of(part.results),
        "figures": {key: estimate.as_json() for key, estimate in part.figures.items()},
        "best_threshold": best_threshold(part.outcomes),
        "per_check": per_check(part.results),
    }
    if curves and part.outcomes.two_sided:
        found["curve"] = [[round(number, 5) for number in point] for point in curve(part.outcomes)]
        found["reliability"] = reliability(part.outcomes)
    return found


def errors_of(results: Sequence[Result]) -> dict[str, Any]:
    """On how many rows the guard gave errors: unsafe ones count as misses, safe ones are left out of every figure, and
    those of which another part was flagged are flagged."""
    kinds = [result.judged.error for result in results if result.judged.error]
    failed = [result for result in results if result.judged.failed]
    return {
        "unsafe_counted_as_missed": sum(result.sample.row.unsafe for result in failed),
        "safe_left_out": sum(not result.sample.row.unsafe for result in failed),
        "flagged_all_the_same": len(kinds) - len(failed),
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }


def per_check(results: Sequence[Result]) -> dict[str, Any]:
    """Tokens per check, and milliseconds while `--concurrency` checks ran beside each other (waiting included)."""
    judged = [result.judged for result in results if result.judged.asked and not result.judged.error]
    asked = sum(each.asked for each in judged)
    if not asked:
        return {"checks": 0}
    loaded_ms = [1000 * each.duration_s / each.asked for each in judged]
    return {
        "checks": asked,
        "prompt_tokens": round(sum(each.tokens.prompt for each in judged) / asked, 2),
        "cached_tokens": round(sum(each.tokens.cached for each in judged) / asked, 2),
        "completion_tokens": round(sum(each.tokens.completion for each in judged) / asked, 2),
        "loaded_ms": {"p50": _percentile(loaded_ms, 50), "p95": _percentile(loaded_ms, 95)},
    }


def _percentile(values: Sequence[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 3)
