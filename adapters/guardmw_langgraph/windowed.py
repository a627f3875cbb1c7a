"""Judges a text of any length: a short one at once, a long one in windows, each a check within its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardmw.checker import Checker
from guardmw.policy.detectors import Match
from guardmw.policy.escapes import detected, whole_escapes
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.types import Check, Decision, Redaction, apply_redactions, merge_redactions, severity

WINDOW_CHARS = 8192
OVERLAP_CHARS = 512
AT_ONCE = 4
"""So many windows of one text are judged at the same time."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The decisions on the windows of `text`, which begin at `starts`."""

    text: str
    starts: tuple[int, ...]
    decisions: tuple[Decision, ...]

    @property
    def decision(self) -> Decision:
        """The most severe one, the first of equals."""
        return max(self.decisions, key=lambda decision: severity(decision.enforced))

    @property
    def redactions(self) -> tuple[Redaction, ...]:
        """In positions of the whole text."""
        moved = [
            replace(one, span=(one.span[0] + start, one.span[1] + start))
            for start, decision in zip(self.starts, self.decisions, strict=True)
            if decision.enforced == "redact"
            for one in decision.redactions
        ]
        return merge_redactions(moved)

    @property
    def offends(self) -> bool:
        """Whether a window as a whole may not be read: it is withheld, or nothing of it would be left."""
        return any(decision.withheld or _nothing_left(decision) for decision in self.decisions)

    @property
    def redacted(self) -> str:
        return apply_redactions(self.text, whole_escapes(self.text, self.redactions))


def _nothing_left(decision: Decision) -> bool:
    whole = (0, len(decision.check.content))
    return decision.enforced == "redact" and any(one.span == whole for one in decision.redactions)


async def judged(checker: Checker, policy: Policy, check: Check, rule: RuleOutcome | None = None) -> Judged:
    """`check` decided, its content in windows when it is long. `rule` decides where it says deny."""
    text = check.content
    if len(text) <= WINDOW_CHARS or rule is not None:
        matches = detected(policy, check.surface, text) if rule is None else ()
        return Judged(text, (0,), (await checker.check(check, policy=policy, matches=matches, rule=rule),))
    found = await asyncio.to_thread(detected, policy, check.surface, text)
    starts = tuple(range(0, len(text) - OVERLAP_CHARS, WINDOW_CHARS - OVERLAP_CHARS))
    places = asyncio.Semaphore(AT_ONCE)

    async def decided(start: int) -> Decision:
        async with places:
            window = replace(check, content=text[start : start + WINDOW_CHARS])
            return await checker.check(window, policy=policy, matches=_within(found, start, start + WINDOW_CHARS))

    return Judged(text, starts, tuple(await asyncio.gather(*map(decided, starts))))


def _within(matches: Sequence[Match], start: int, end: int) -> list[Match]:
    """What of `matches` lies in ``[start, end)``, in positions of that window; those at its edges are cut, and put
    together again when the redactions of all windows are."""
    return [
        replace(match, start=max(match.start, start) - start, end=min(match.end, end) - start)
        for match in matches
        if match.start < end and match.end > start
    ]
