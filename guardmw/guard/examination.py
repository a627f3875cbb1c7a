"""One check before a guard model: the questions it takes, their answers, and the findings that come of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from guardmw.errors import GuardConfigError, GuardContextError, GuardError
from guardmw.guard.asking import Asker, choice_of, together, written
from guardmw.guard.calibration import Calibration
from guardmw.guard.families.base import CategoryQuery, Family, FollowUp, ReasoningQuery, Request, VerdictQuery
from guardmw.guard.verdict import (
    Reading,
    at_character,
    in_band,
    parse_reasoning,
    positions_of,
    read,
    relative_shares,
    unsafe_logit,
)
from guardmw.guard.windows import Fit, bare, windows_of
from guardmw.guard.wire import Deadline, Wire
from guardmw.policy.schema import Policy
from guardmw.types import Check, Finding, Surface, TokenUsage

__all__ = ["Examination", "Explain", "Memory"]

logger = logging.getLogger("guardmw.guard")

Key = TypeVar("Key")
Value = TypeVar("Value")

Explain = Literal["never", "uncertain", "always"]
"""When a guard reasons: `never`, when its verdict is near a threshold (`uncertain`), or `always`."""

UNCERTAIN_LOGITS = 0.5
REASONING_SHARE = 0.9
"""Share of the remaining time that reasons may take: a verdict is there already and must not be lost."""
MAX_MEMORY = 256


@dataclass
class Memory:
    """What a guard keeps between checks: the `fields` of every request, how much its context holds under a policy
    (`fits`), and at how many characters a stream became too long for it (`refused`)."""

    fields: Mapping[str, object]
    fits: dict[tuple[str, Surface], Fit] = field(default_factory=dict)
    refused: dict[tuple[str, Surface, str], int] = field(default_factory=dict)
    thresholds: dict[tuple[str, Surface], float] = field(default_factory=dict)

    def keep(self, policy: Policy, check: Check, fit: Fit) -> None:
        """`check` is too long for `fit`: so is whatever its stream becomes, which only grows."""
        _put(self.fits, (policy.hash, check.surface), fit)
        if check.stream_id is not None:
            _put(self.refused, (policy.hash, check.surface, check.stream_id), len(check.content))

    def surely_too_long(self, policy: Policy, check: Check) -> Fit | None:
        """What the context holds when `check` can't fit; None when it may, which asking tells."""
        fit = self.fits.get((policy.hash, check.surface))
        refused = self.refused.get((policy.hash, check.surface, check.stream_id or ""))
        known = refused is not None and len(check.content) >= refused
        return fit if fit is not None and (known or fit.surely_shorter_than(check.content)) else None

    def lowest(self, policy: Policy, surface: Surface) -> float:
        """The lowest threshold of `policy` on `surface`: below it no category matters."""
        lowest = self.thresholds.get((policy.hash, surface))
        if lowest is None:
            lowest = min(policy.thresholds(category)[0] for category in policy.categories_on(surface))
            _put(self.thresholds, (policy.hash, surface), lowest)
        return lowest


def _put(kept: dict[Key, Value], key: Key, value: Value) -> None:
    if key not in kept and len(kept) >= MAX_MEMORY:
        del kept[next(iter(kept))]
    kept[key] = value


@dataclass(frozen=True, slots=True)
class _Judged:
    """A probability per category, and the reasons if they were asked for."""

    scores: dict[str, float]
    reasons: str | None = None


class Examination:
    """Everything about one check; use it once. `tokens` is what its calls took."""

    def __init__(
        self, check: Check, policy: Policy, family: Family, wire: Wire, memory: Memory,
        *, calibration: Calibration, model: str | None, deadline: Deadline, explain: Explain, guard: str,
    ) -> None:  # fmt: skip
        self._check, self._policy, self._family, self._memory = check, policy, family, memory
        self._calibration, self._deadline, self._explain, self._guard = calibration, deadline, explain, guard
        self._servers = str(wire)
        self._asker = Asker(
            wire, check, family=family.name, model=model, fields=memory.fields, deadline=deadline, guard=guard
        )

    @property
    def tokens(self) -> TokenUsage:
        return self._asker.tokens

    async def findings(self) -> tuple[Finding, ...]:
        """One finding per category on the check's surface. Raises GuardError."""
        fit = self._memory.surely_too_long(self._policy, self._check)
        if fit is None:
            try:
                return self._found(await self._judge(self._check))
            except GuardContextError as error:
                fit = await self._measure(error)
                self._memory.keep(self._policy, self._check, fit)
        parts = await self._in_windows(self._check, fit)
        windows, judged = zip(*parts, strict=True)
        return self._found(_worst(judged), _note(windows, fit))

    async def _judge(self, check: Check) -> _Judged:
        queries = self._family.verdicts(check, self._policy)
        readings = await together(*(self._asker.reading(query.request, query.labels) for query in queries))
        scores: dict[str, float] = {}
        policy, surface = self._policy, check.surface
        for query, reading in zip(queries, readings, strict=True):
            probability = self._probability(reading, query)
            shares = relative_shares(reading.mass, query.categories, query.about)
            if query.leaves_open and probability > self._memory.lowest(policy, surface):
                shares = await self._shares(self._family.follow_up(check, self._policy), query.about)
            scores |= {category: probability * share for category, share in shares.items()}
        return await self._with_reasons(check, _Judged(scores))

    def _probability(self, reading: Reading, query: VerdictQuery) -> float:
        return self._calibration.probability(unsafe_logit(reading, query.labels))

    async def _shares(self, follow_up: FollowUp | None, about: Sequence[str]) -> dict[str, float]:
        """Each category's share of an unsafe verdict over `about`, the likeliest one's being 1."""
        if follow_up is None:
            return dict.fromkeys(about, 1.0)
        if isinstance(follow_up, CategoryQuery):
            reading = await self._asker.reading(follow_up.request, follow_up.categories)
            return relative_shares(reading.mass, follow_up.categories, about, follow_up.ignored)
        readings = await together(*(self._asker.reading(query.request, query.labels) for query in follow_up))
        alone = {
            query.about[0]: self._probability(reading, query)
            for query, reading in zip(follow_up, readings, strict=True)
        }
        return relative_shares(alone, {category: (category,) for category in alone}, about)

    async def _with_reasons(self, check: Check, judged: _Judged) -> _Judged:
        wanted = self._explain == "always" or (
            self._explain == "uncertain" and in_band(self._found(judged), self._policy, UNCERTAIN_LOGITS)
        )
        query = self._family.reasoning(check, self._policy) if wanted else None
        if query is None:
            return judged
        try:
            async with asyncio.timeout(max(0.001, self._deadline.left_s() * REASONING_SHARE)):
                return await self._reasoned(query, judged)
        except (GuardError, TimeoutError) as error:
            logger.warning("guard %r gave no usable reasons, its first verdict stands: %s", self._guard, error)
            return judged

    async def _reasoned(self, query: ReasoningQuery, first: _Judged) -> _Judged:
        """The verdict that the reasons lead to. Where it names no category, the shares stay as they were."""
        answer = await self._asker.send(query.request)
        choice = choice_of(answer)
        text, thought = written(choice, chat=bool(query.request.messages))
        reasoned = parse_reasoning(text, query, thought)
        decoded = positions_of(choice, chat=bool(query.request.messages))
        label = at_character(decoded, query.answer)
        reading = read(label, query.labels).checked(self._guard)
        probability = self._calibration.probability(unsafe_logit(reading, query.labels))
        shares = relative_shares(first.scores, {each: (each,) for each in first.scores}, tuple(first.scores))
        if reasoned.categories and query.labels[reasoned.label] > 0:
            shares = {category: float(category in reasoned.categories) for category in first.scores}
        return _Judged({category: probability * share for category, share in shares.items()}, reasoned.reasons)

    def _found(self, judged: _Judged, note: str = "") -> tuple[Finding, ...]:
        rationale = "\n".join(part for part in (judged.reasons, note) if part) or None
        return tuple(
            Finding(category.id, judged.scores.get(category.id, 0.0), f"guard:{self._guard}", rationale=rationale)
            for category in self._policy.categories_on(self._check.surface)
        )

    async def _in_windows(self, check: Check, fit: Fit) -> list[tuple[Check, _Judged]]:
        parts = await together(*(self._window(window, fit) for window in windows_of(check, fit)))
        return [each for part in parts for each in part]

    async def _window(self, window: Check, fit: Fit) -> list[tuple[Check, _Judged]]:
        """One window judged; in smaller ones where its text takes more tokens than most."""
        tighter = fit.tighter()
        try:
            return [(window, await self._judge(window))]
        except GuardContextError:
            if tighter.too_small:
                raise
        return await self._in_windows(window, tighter)

    async def _measure(self, error: GuardContextError) -> Fit:
        """How much text fits. Raises `error` when the server doesn't say how long its context is, and
        GuardConfigError when the policy alone fills it."""
        if error.limit_tokens is None:
            raise error
        known = self._memory.fits.get((self._policy.hash, self._check.surface))
        empty = known.base_tokens if known else await self._asker.count(self._longest_question(bare(self._check)))
        fit = Fit(error.limit_tokens, empty)
        if fit.too_small:
            raise GuardConfigError(
                f"policy {self._policy.id!r} takes {empty} of the {error.limit_tokens} tokens of the guard's context "
                f"({self._servers}), which leaves no room for a text to judge; serve the guard with a longer "
                "--max-model-len, or shorten the policy's categories and precedents"
            ) from error
        return fit

    def _longest_question(self, check: Check) -> Request:
        requests = (query.request for query in self._family.verdicts(check, self._policy))
        return max(requests, key=lambda request: len(str(request.body())))


def _worst(judged: Sequence[_Judged]) -> _Judged:
    """Per category the highest probability of all windows, with the reasons of the window that has the highest."""
    categories = {category for each in judged for category in each.scores}
    scores = {category: max(each.scores.get(category, 0.0) for each in judged) for category in categories}
    highest = max(judged, key=lambda each: max(each.scores.values(), default=0.0))
    return _Judged(scores, highest.reasons)


def _note(windows: Sequence[Check], fit: Fit) -> str:
    longest = max(len(window.content) for window in windows)
    return (
        f"judged in overlapping windows of up to {longest} characters ({len(windows)} in this check), each with the "
        "newest part of the conversation and without earlier calls: all of it is longer than the guard's context of "
        f"{fit.limit_tokens} tokens"
    )
