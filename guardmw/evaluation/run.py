"""One evaluation from samples to the report, a dictionary that is the JSON file and what the page is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guardmw.evaluation.data import Dataset, Sample, described
from guardmw.evaluation.judging import LATENCY_ROWS, EvaluationError, Judge, latencies, side_by_side
from guardmw.evaluation.metrics import Bools, macro
from guardmw.evaluation.slices import GROUPINGS, Result, as_json, errors_of, grouped, measured, outcomes_of
from guardmw.evaluation.streams import Streamed, stream_figures, stream_row
from guardmw.guard.base import Guard

__all__ = ["Progress", "Settings", "evaluate"]

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and out of how many."""

WORST = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """`bootstrap` replicates per figure (0: no intervals), `seed` for them and for the rows timed one by one."""

    seed: int = 0
    bootstrap: int = 1000
    concurrency: int = 16
    streaming: bool = True
    show_texts: bool = False


async def evaluate(dataset: Dataset, guard: Guard, settings: Settings, tell: Progress) -> dict[str, Any]:
    """Judge every sample and measure. The report holds no text of a row unless `show_texts`.

    Raises EvaluationError when the guard gives no verdict at all, GuardConfigError when it is set up wrongly.
    """
    judge = Judge(guard, settings.concurrency)
    samples = dataset.samples
    timed_s = await latencies(judge, samples, settings.seed, _counter("timing", LATENCY_ROWS, tell))
    done = _counter("judging", len(samples), tell)
    judged = await side_by_side(samples, judge.row, settings.concurrency, done)
    results = [Result(sample, each) for sample, each in zip(samples, judged, strict=True)]
    if all(result.judged.failed for result in results):
        raise EvaluationError(f"the guard failed on every row: {judge.last_error}")
    report = {
        "data": described(dataset),
        "latency_ms": _latency(timed_s),
        **_measured(results, settings, tell),
    }
    if settings.streaming:
        report["streaming"] = await _streaming(judge, results, settings, tell)
    if settings.show_texts:
        report["worst"] = _worst(results)
    return report


def _counter(what: str, total: int, tell: Progress) -> Callable[[], None]:
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        tell(what, count, total)

    return done


def _latency(timed_s: Sequence[float]) -> dict[str, Any]:
    if not timed_s:
        return {"checks": 0}
    p50, p95 = np.percentile(timed_s, [50, 95]) * 1000
    return {"checks": len(timed_s), "p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def _measured(results: Sequence[Result], settings: Settings, tell: Progress) -> dict[str, Any]:
    groups = {grouping: grouped(results, grouping) for grouping in GROUPINGS}
    done = _counter("measuring", 1 + sum(map(len, groups.values())), tell)

    def part(name: str, of: Sequence[Result]) -> Any:
        found = measured(name, of, settings.bootstrap, settings.seed)
        done()
        return found

    overall = part("overall", results)
    slices = {grouping: [part(name, of) for name, of in members.items()] for grouping, members in groups.items()}
    sources = {each.name: each.figures for each in slices["source"]}
    return {
        "overall": as_json(overall, curves=True),
        "macro": {key: estimate.as_json() for key, estimate in macro(sources).items()},
        "slices": {
            grouping: [as_json(each, curves=grouping == "task") for each in members]
            for grouping, members in slices.items()
        },
    }


async def _streaming(judge: Judge, results: Sequence[Result], settings: Settings, tell: Progress) -> dict[str, Any]:
    """The responses again, as streams."""
    whole = [result for result in results if result.sample.row.task == "response"]
    done = _counter("streaming", len(whole), tell)

    async def stream(result: Result) -> Streamed:
        return await stream_row(judge, result.sample)

    streams = await side_by_side(whole, stream, settings.concurrency, done)
    pairs = list(zip(whole, streams, strict=True))
    parts = [_stream_slice("overall", pairs, settings)]
    for source in sorted({result.sample.row.source for result in whole}):
        members = [pair for pair in pairs if pair[0].sample.row.source == source]
        parts.append(_stream_slice(source, members, settings))
    return {"overall": parts[0], "source": parts[1:]}


def _stream_slice(name: str, pairs: Sequence[tuple[Result, Streamed]], settings: Settings) -> dict[str, Any]:
    as_results = [Result(result.sample, streamed.judged) for result, streamed in pairs]
    counting = [streamed for (_, streamed), result in zip(pairs, as_results, strict=True) if result.counts]
    unsafe = [streamed for streamed in counting if streamed.row.unsafe]
    figures = stream_figures(counting, settings.bootstrap, settings.seed, name)
    whole = outcomes_of([result for result, _ in pairs])
    return {
        "name": name,
        "rows": len(pairs),
        "unsafe": len(unsafe),
        "onset_labelled": sum(streamed.onset is not None for streamed in unsafe),
        "errors": errors_of(as_results),
        "figures": {key: estimate.as_json() for key, estimate in figures.items()},
        "whole_text_f1": _f1(whole.unsafe, whole.flagged),
    }


def _f1(unsafe: Bools, flagged: Bools) -> float | None:
    """F1 of the same rows judged whole, for comparison with the streamed one; None with one label only."""
    if not 0 < unsafe.sum() < len(unsafe):
        return None
    return round(float(2 * (unsafe & flagged).sum() / (unsafe.sum() + flagged.sum())), 6)


def _worst(results: Sequence[Result]) -> dict[str, list[dict[str, Any]]]:
    """The safe rows with the highest scores that were flagged, and the unsafe ones with the lowest that were not."""
    known = [result for result in results if not result.judged.failed]
    alarms = [result for result in known if result.judged.unsafe and not result.sample.row.unsafe]
    misses = [result for result in known if not result.judged.unsafe and result.sample.row.unsafe]
    alarms.sort(key=lambda result: -result.judged.score)
    misses.sort(key=lambda result: result.judged.score)
    return {
        "false_positives": [_shown(result.sample, result) for result in alarms[:WORST]],
        "false_negatives": [_shown(result.sample, result) for result in misses[:WORST]],
    }


def _shown(sample: Sample, result: Result) -> dict[str, Any]:
    row = sample.row
    return {
        "file": sample.file, "line": sample.line, "id": row.id, "source": row.source, "task": row.task,
        "score": round(result.judged.score, 4), "top": result.judged.top, "categories": list(row.categories),
        "prompt": row.prompt, "content": row.content,
    }  # fmt: skip
