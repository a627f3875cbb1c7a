"""Streams the rows of a JSONL file through the demo's agent and counts what came of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from guardmw.commands.demo.agent import AGENT, converse
from guardmw.commands.demo.watch import Watch
from guardmw.errors import GuardmwError
from guardmw.guard.base import Guard
from guardmw.policy.schema import Policy
from guardmw.types import Action
from guardmw_langgraph import GuardMiddleware
from guardmw_langgraph.scripted import ScriptedChatModel

QUESTION = "Please go on."
ANSWER = "Thank you for your message; I will look into it."
AT_ONCE = 8

Outcome = Literal["passed", "redacted", "cut in the answer", "blocked at the input", "changed"]
"""What came of a row; `changed` is a fault: text that was allowed and yet differs from what the model said."""


class RowError(GuardmwError):
    """A line of the file can't be used."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the user says, what the model answers, and the label, if any."""

    user: str
    answer: str
    label: str


@dataclass(slots=True)
class Report:
    """Counts by label and outcome, and timings in milliseconds."""

    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    first_ms: list[float] = field(default_factory=list)
    guard_ms: list[float] = field(default_factory=list)
    checks: int = 0

    def add(self, row: Row, watch: Watch) -> None:
        self.outcomes[row.label, outcome(row, watch)] += 1
        self.checks += len(watch.judged)
        self.guard_ms += watch.guard_ms
        if watch.first_shown_s is not None:
            self.first_ms.append(1e3 * watch.first_shown_s)

    def as_json(self) -> dict[str, Any]:
        return {
            "outcomes": [
                {"label": label, "outcome": outcome, "rows": rows}
                for (label, outcome), rows in sorted(self.outcomes.items())
            ],
            "skipped": dict(self.skipped),
            "checks": self.checks,
            "first_words_ms": _percentiles(self.first_ms),
            "guard_ms": _percentiles(self.guard_ms),
        }


def outcome(row: Row, watch: Watch) -> Outcome:
    action: Action = watch.action
    shown = watch.saying.shown if watch.saying else ""
    if action in ("allow", "flag"):
        return "passed" if shown == row.answer else "changed"
    if action == "redact":
        return "redacted"
    withheld = watch.worst()
    return "blocked at the input" if withheld and withheld.check.surface == "input" else "cut in the answer"


def read(path: Path, limit: int | None, skipped: Counter[str]) -> Iterator[Row]:
    """The rows of `path` (JSON lines, gzipped or not): objects with ``content`` or ``text``, and if they like
    ``label`` and ``task`` (``prompt`` is said by the user, ``response`` by the model; the other side says something
    harmless). Tasks that no chat shows are counted in `skipped`.

    Raises RowError naming the line that can't be read.
    """
    taken = 0
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        if limit is not None and taken >= limit:
            return
        row = _row(line, f"{path.name}:{number}", skipped)
        if row is not None:
            taken += 1
            yield row


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            yield from lines
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RowError(f"{path} can't be read: {error}. Give a file of JSON lines in UTF-8, gzipped or not") from error


def _row(line: str, place: str, skipped: Counter[str]) -> Row | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"{place}: not JSON ({error}). Every line must be one JSON object") from error
    text = value.get("content", value.get("text")) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise RowError(f'{place}: no text. Every row needs a string under "content" or "text"')
    task, label = value.get("task", "response"), str(value.get("label", "unlabelled"))
    match task:
        case "prompt":
            return Row(text, ANSWER, label)
        case "response":
            return Row(QUESTION, text, label)
        case _:
            skipped[str(task)] += 1
            return None


async def stream_rows(rows: list[Row], policy: Policy, guard: Guard, pace_s: float, console: Console) -> Report:
    """Every row through an agent of its own, `AT_ONCE` at a time, all with one guard."""
    report, places = Report(), asyncio.Semaphore(AT_ONCE)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("rows", total=len(rows))

        async def one(row: Row) -> None:
            async with places:
                watch = Watch(row.user)
                middleware = GuardMiddleware(policy, guard=guard, agent=AGENT, recorder=watch)
                await converse(ScriptedChatModel([row.answer], delay_s=pace_s), middleware, watch)
                report.add(row, watch)
                progress.advance(bar)

        await asyncio.gather(*(one(row) for row in rows))
    return report


def show(report: Report, console: Console) -> None:
    outcomes = [outcome for outcome in get_args(Outcome) if any(seen == outcome for _, seen in report.outcomes)]
    table = Table("label", "rows", *outcomes, title="What came of the rows")
    for label in sorted({label for label, _ in report.outcomes}):
        counts = [report.outcomes[label, outcome] for outcome in outcomes]
        total = sum(counts)
        table.add_row(label, str(total), *(f"{count} ({count / total:.1%})" for count in counts))
    console.print(table)
    for task, count in report.skipped.items():
        console.print(f"{count} rows of task {task!r} were left out: no chat shows them.", style="yellow")
    first, guard = _percentiles(report.first_ms), _percentiles(report.guard_ms)
    console.print(
        f"{report.checks} checks; first words after {first['p50']} ms (p50), {first['p95']} ms (p95); "
        f"guard {guard['p50']} ms (p50), {guard['p95']} ms (p95), {AT_ONCE} rows at once."
    )


def _percentiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {name: round(sum(values), 1) for name in ("p50", "p95")}
    cuts = statistics.quantiles(values, n=20)
    return {"p50": round(cuts[9], 1), "p95": round(cuts[18], 1)}
