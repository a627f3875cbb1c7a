"""Runs a guard within its limits: rate, concurrency, deadline. Every failure leaves as a GuardError."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from asyncio_throttle.throttler import Throttler

from guardmw.errors import GuardAnswerError, GuardError, GuardOverloadedError, GuardTimeoutError
from guardmw.guard.base import Guard
from guardmw.policy.schema import Policy
from guardmw.types import Check, Verdict

_running: ContextVar[tuple[str, float] | None] = ContextVar("guardmw_running_check", default=None)
"""Id and end of the check that a runner waits for. With the id, since tasks that a check starts may outlive it."""


def ends_at_s(check: Check, policy: Policy) -> float:
    """When a guard must have judged `check`, on the event loop's clock: the end that its runner set, which counts
    waiting too, or without a runner `policy`'s whole deadline from now."""
    running = _running.get()
    if running is not None and running[0] == check.id:
        return running[1]
    return asyncio.get_running_loop().time() + policy.limits.deadline_ms / 1000


@contextmanager
def _ending(check: Check, until_s: float) -> Iterator[None]:
    token = _running.set((check.id, until_s))
    try:
        yield
    finally:
        _running.reset(token)


class GuardRunner:
    """Asks one guard. At most `max_in_flight` checks run at once on one event loop; others wait their turn."""

    def __init__(self, guard: Guard, max_in_flight: int = 64) -> None:
        self.guard = guard
        self._max_in_flight = max_in_flight
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._throttlers: dict[tuple[str, float], Throttler] = {}

    async def check(self, check: Check, policy: Policy) -> Verdict:
        """The guard's verdict, validated.

        Waiting for a place counts against the policy's deadline. Raises GuardOverloadedError when no place came free in
        time, GuardTimeoutError when the guard was too slow, GuardAnswerError when its answer is no verdict, and
        GuardError for whatever else the guard raised.
        """
        deadline_s = policy.limits.deadline_ms / 1000
        waiting = True
        try:
            until_s = asyncio.get_running_loop().time() + deadline_s
            async with asyncio.timeout_at(until_s):
                await self._rate(check.agent, policy)
                async with self._slot():
                    waiting = False
                    with _ending(check, until_s):
                        verdict = await self.guard.check(check, policy)
        except TimeoutError as error:
            if waiting:
                raise GuardOverloadedError(
                    f"no place at guard {self.guard.name!r} within {deadline_s:g} s for agent {check.agent!r}; "
                    "raise `limits.checks_per_s` or the checker's `max_in_flight`"
                ) from error
            raise GuardTimeoutError(self.guard.name, deadline_s) from error
        except GuardError:
            raise
        except Exception as error:
            raise GuardError(f"guard {self.guard.name!r} failed: {type(error).__name__}: {error}") from error
        return validated(verdict, check, policy)

    async def _rate(self, agent: str, policy: Policy) -> None:
        rate = policy.limits.checks_per_s
        if rate is not None:
            throttler = self._throttlers.get((agent, rate))
            if throttler is None:
                burst = math.ceil(rate)
                throttler = self._throttlers[agent, rate] = Throttler(rate_limit=burst, period=burst / rate)
            await throttler.acquire()  # type: ignore[no-untyped-call]

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        slot = self._slots.get(loop)
        if slot is None:
            slot = self._slots[loop] = asyncio.Semaphore(self._max_in_flight)
        return slot


def validated(verdict: object, check: Check, policy: Policy) -> Verdict:
    """`verdict` when it is one: findings of the policy's categories, with probabilities.

    Raises GuardAnswerError otherwise: an answer that can't be understood is a failure, never "safe".
    """
    if not isinstance(verdict, Verdict):
        raise GuardAnswerError(f"the guard answered with {type(verdict).__name__}, not with a Verdict")
    known = {category.id for category in policy.categories_on(check.surface)}
    for finding in verdict.findings:
        if finding.category not in known:
            raise GuardAnswerError(
                f"the guard reports {finding.category!r}, no category of policy {policy.id!r} on {check.surface}"
            )
        if not (isinstance(finding.probability, (int, float)) and 0.0 <= finding.probability <= 1.0):
            raise GuardAnswerError(
                f"the guard's probability for {finding.category!r} is {finding.probability!r}, not a number in [0, 1]"
            )
    return verdict
