"""Two guards in a row: a fast one for every check, a thorough one where the fast one isn't sure."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from guardmw.guard.base import Guard, Preparing
from guardmw.guard.verdict import in_band
from guardmw.policy.schema import Policy
from guardmw.telemetry.metrics import cascade_checked
from guardmw.types import Check, TokenUsage, Verdict

__all__ = ["CascadeGuard"]


class CascadeGuard:
    """Asks `first`, and `second` when a probability of the first lies near where it decides something.

    Near is: in a category's uncertain band, or within `band` logits of one of its thresholds at the policy's
    strictness. The second's verdict then counts alone. `judged` and `escalated` count checks; each verdict's findings
    say by their source who judged, its tokens are those of both, and the metric ``guardmw.cascade.checks`` counts too.

    A failure of either guard is raised: the policy's `on_guard_error` decides, and no verdict of the first stands in
    where it wasn't sure. Detectors and rules come before every guard, so before both. Closing closes both.

    Raises ValueError when `band` is negative or no number.
    """

    name = "cascade"

    def __init__(self, first: Guard, second: Guard, *, band: float = 1.5) -> None:
        if not (math.isfinite(band) and band >= 0):
            raise ValueError(f"band is a number of logits, 0 or more, not {band}")
        self.first, self.second, self.band = first, second, band
        self.version = f"{first.name}-{first.version}>{second.name}-{second.version}/b{band:g}"
        self.judged = self.escalated = 0

    @property
    def escalation_rate(self) -> float:
        """Share of the checks judged so far that the second guard was asked about, 0 before the first check."""
        return self.escalated / self.judged if self.judged else 0.0

    def prepare(self, policy: Policy) -> None:
        """Lets both guards get ready for `policy`, those that can."""
        for guard in (self.first, self.second):
            if isinstance(guard, Preparing):
                guard.prepare(policy)

    async def check(self, check: Check, policy: Policy) -> Verdict:
        """Judge `check`. Raises what the guards raise."""
        verdict = await self.first.check(check, policy)
        escalates = in_band(verdict.findings, policy, self.band)
        self.judged += 1
        self.escalated += escalates
        cascade_checked(escalated=escalates)
        if escalates:
            verdict = _after(verdict, await self.second.check(check, policy))
        return replace(verdict, guard=self.name, guard_version=self.version)

    async def aclose(self) -> None:
        """Close both guards, the second also when the first fails to."""
        results = await asyncio.gather(self.first.aclose(), self.second.aclose(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _after(first: Verdict, second: Verdict) -> Verdict:
    one, other = first.tokens, second.tokens
    tokens = TokenUsage(one.prompt + other.prompt, one.cached + other.cached, one.completion + other.completion)
    return replace(second, tokens=tokens, duration_s=first.duration_s + second.duration_s)
