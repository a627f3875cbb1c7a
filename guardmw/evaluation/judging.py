"""Asking the guard about rows: as checks of the surface where a guard would meet them, under the row's rules.

What the checker would decide without a guard is decided here too: blank texts and surfaces without categories are
fine, and what a policy's detectors or tool rules object to is unsafe with probability 1.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from guardmw.errors import GuardConfigError, GuardError, GuardmwError
from guardmw.evaluation.data import Sample
from guardmw.evaluation.steps import trajectory_checks
from guardmw.guard.base import Guard
from guardmw.guard.resilience import GuardRunner
from guardmw.policy.detectors import Match
from guardmw.policy.escapes import detected
from guardmw.policy.schema import Policy
from guardmw.policy.tools import decide_call
from guardmw.train.calls import call_checks
from guardmw.train.dataset import Row, surface_of
from guardmw.types import Check, Finding, Message, TokenUsage, severity

__all__ = ["LATENCY_ROWS", "EvaluationError", "Judge", "Judged", "checks_of", "latencies", "side_by_side"]

NO_TOKENS = TokenUsage()
FIRST_CHECKS = 8
"""When the guard fails on all of the first checks, it would on the others."""
LATENCY_ROWS, FAILURES = 100, 2
WARM_UP = "Hello."

Item = TypeVar("Item")
Result = TypeVar("Result")


class EvaluationError(GuardmwError):
    """The guard can't be measured."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a guard says about a text. `score` is the highest probability of any finding and `top` its category;
    `unsafe` whether any finding is above its category's threshold. `duration_s` includes waiting for other checks.
    `error` (an ``error.type``) is the first failure of the guard on any part of it."""

    score: float = 0.0
    unsafe: bool = False
    top: str | None = None
    tokens: TokenUsage = NO_TOKENS
    duration_s: float = 0.0
    asked: int = 0
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether an error left the judgement open: what another check has flagged is flagged all the same."""
        return self.error is not None and not self.unsafe

    def and_then(self, later: Judged) -> Judged:
        """Both as one: of the likelier one the score and category, of both the rest."""
        one, other = self.tokens, later.tokens
        likelier = later if later.score > self.score else self
        return Judged(
            likelier.score, self.unsafe or later.unsafe, likelier.top,
            TokenUsage(one.prompt + other.prompt, one.cached + other.cached, one.completion + other.completion),
            self.duration_s + later.duration_s, self.asked + later.asked, self.error or later.error,
        )  # fmt: skip


class Judge:
    """Asks one guard, at most `concurrency` checks at once. `last_error` is the newest of its failures."""

    def __init__(self, guard: Guard, concurrency: int) -> None:
        self.guard = guard
        self._runner = GuardRunner(guard, concurrency)
        self._answers = self._failures = 0
        self.last_error: GuardError | None = None

    async def row(self, sample: Sample) -> Judged:
        """The judgement on one row, of several calls or steps that on all of them. Raises GuardConfigError."""
        judged = Judged()
        for check in checks_of(sample.row):
            judged = judged.and_then(await self.check(check, sample.rules.policy))
        return judged

    async def check(self, check: Check, policy: Policy, matches: Sequence[Match] | None = None) -> Judged:
        """The judgement on one check; `matches` are those of detectors (None: they are run here).

        Raises GuardConfigError (a guard that is set up wrongly fails on every row) and EvaluationError when nothing but
        errors came so far. The guard's other errors are noted.
        """
        known = _without_guard(check, policy, matches)
        if known is not None:
            return known
        check = replace(check, policy=policy.ref)
        try:
            verdict = await self._runner.check(check, policy)
        except GuardConfigError:
            raise
        except GuardError as error:
            self._failed(error)
            return Judged(asked=1, error=error.error_type)
        self._answers += 1
        top = max(verdict.findings, key=lambda finding: finding.probability, default=None)
        unsafe = any(_above(finding, policy) for finding in verdict.findings)
        score, category = (0.0, None) if top is None else (top.probability, top.category)
        return Judged(score, unsafe, category, verdict.tokens, verdict.duration_s, 1)

    def _failed(self, error: GuardError) -> None:
        self._failures += 1
        self.last_error = error
        if not self._answers and self._failures >= FIRST_CHECKS:
            raise EvaluationError(f"the guard failed on each of the first {FIRST_CHECKS} checks: {error}") from error


def _above(finding: Finding, policy: Policy) -> bool:
    return finding.probability > policy.thresholds(policy.category(finding.category))[1]


def _without_guard(check: Check, policy: Policy, matches: Sequence[Match] | None) -> Judged | None:
    """What is certain before any guard is asked, None when nothing is."""
    if matches is None:
        matches = detected(policy, check.surface, check.content)
    found = next((match for match in matches if severity(match.action) >= severity("redact")), None)
    if found is not None:
        return Judged(1.0, unsafe=True, top=found.entity)
    rule = decide_call(policy.tools, check.calls[-1], check.calls[:-1]) if check.calls else None
    if rule is not None and rule.action in ("ask", "deny"):
        return Judged(1.0, unsafe=True, top=rule.rule)
    if (rule is not None and rule.action == "allow") or not check.content.strip():
        return Judged()
    return None if policy.categories_on(check.surface) else Judged()


def checks_of(row: Row) -> list[Check]:
    """The checks in which a guard meets `row`: one, but one per call of a tool and one per step of a trajectory."""
    surface = surface_of(row.task)
    said = (Message("user", row.prompt),) if row.prompt.strip() else ()
    if surface is None:
        return trajectory_checks(row.content, said)
    if surface == "tool_call":
        return call_checks(row.content, said)
    return [Check(surface, row.content, conversation=said)]


async def side_by_side(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    workers: int,
    done: Callable[[], None] = lambda: None,
) -> list[Result]:
    """The results of `work` on every item, in the items' order, at most `workers` at once; `done` after each.

    The first error ends all of it and is raised.
    """
    results: dict[int, Result] = {}
    waiting: Iterator[tuple[int, Item]] = iter(enumerate(items))

    async def worker() -> None:
        for place, item in waiting:
            results[place] = await work(item)
            done()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except* GuardmwError as errors:
        raise errors.exceptions[0] from None
    return [results[place] for place in range(len(items))]


async def latencies(judge: Judge, samples: Sequence[Sample], seed: int, done: Callable[[], None]) -> list[float]:
    """Seconds that checks take one after another: of `LATENCY_ROWS` rows at most, none of them trajectories.

    The policy of a row is made known to the guard by another check first, as it is in a running agent. A guard that
    fails on the first ones is not timed. `done` is called after each.
    """
    rows = [sample for sample in samples if sample.row.task != "trajectory" and sample.row.content.strip()]
    rows = random.Random(seed).sample(rows, min(LATENCY_ROWS, len(rows)))  # noqa: S311
    taken_s: list[float] = []
    failures = 0
    for sample in rows:
        if failures >= FAILURES and not taken_s:
            break
        check = checks_of(sample.row)[0]
        await judge.check(replace(check, content=WARM_UP, calls=()), sample.rules.policy)
        started_s = time.perf_counter()
        judged = await judge.check(check, sample.rules.policy)
        failures += judged.error is not None
        if judged.asked and judged.error is None:
            taken_s.append(time.perf_counter() - started_s)
        done()
    return taken_s
