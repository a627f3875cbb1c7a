"""THE decision: rules, detectors, guard, thresholds, action. Every check passes here and is recorded once."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.context import Context

from guardmw.errors import GuardError
from guardmw.guard import resolve_guard
from guardmw.guard.base import Guard, Preparing
from guardmw.guard.cache import VerdictCache
from guardmw.guard.resilience import GuardRunner
from guardmw.judgement import Evidence, decide
from guardmw.policy.automaton import automaton_for, state_after
from guardmw.policy.detectors import Match, detectors_for
from guardmw.policy.escapes import detected
from guardmw.policy.load import as_policy_set
from guardmw.policy.match import PolicySet
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.telemetry.record import CheckSpan
from guardmw.traces.record import Recorder
from guardmw.types import SURFACES, Action, Approval, Check, Decision, Verdict

logger = logging.getLogger("guardmw.checker")

PERSON = "person"
"""Who a decision's verdict is by when a person gave it."""

RELOAD_INTERVAL_S = 1.0
"""How often policy files are looked at for changes, at most."""


class Checker:
    """Decides checks under the policies of `policy`, asking `guard` where rules and detectors leave it to.

    `policy` is a file or folder, the name of a bundled policy, a Policy or a PolicySet; `guard` a name ("embedded",
    "detectors") or a Guard. `fallback` judges where a policy answers a guard's failure with ``fallback`` (None: the
    embedded guard, unless that is the one that failed). `recorder` gets every decision, once. At most `max_in_flight`
    checks are with the guard at once; the newest `cache_size` verdicts outside streams are remembered.

    Raises PolicyError and GuardConfigError when built, never later. Safe to use from several event loops.
    """

    def __init__(
        self,
        policy: Policy | PolicySet | str | os.PathLike[str],
        *,
        guard: Guard | str = "embedded",
        recorder: Recorder | None = None,
        fallback: Guard | str | None = None,
        max_in_flight: int = 64,
        cache_size: int = 4096,
    ) -> None:
        self.policies = as_policy_set(policy)
        self.guard = resolve_guard(guard)
        self.checks = 0
        self._owned = [self.guard] if isinstance(guard, str) else []
        self._recorder = recorder
        self._max_in_flight = max_in_flight
        self._runner = GuardRunner(self.guard, max_in_flight)
        self._fallback_guard = fallback
        self._fallback: GuardRunner | None = None
        self._cache = VerdictCache(cache_size)
        self._warm_up()

    async def policy_for(self, agent: str) -> Policy:
        """The policy of `agent`, after a look at the files for changes. Raises UnknownAgentError."""
        if self.policies.due(RELOAD_INTERVAL_S):
            await asyncio.to_thread(self._reload)
        return self.policies.for_agent(agent)

    async def check(
        self,
        check: Check,
        *,
        policy: Policy | None = None,
        matches: Sequence[Match] | None = None,
        rule: RuleOutcome | None = None,
        risk_spent: float = 0.0,
        parent: Context | None = None,
    ) -> Decision:
        """Decides one check and records the decision.

        `policy`, `matches` (what detectors found in the new part of a stream) and `rule` (what the rules say to a
        tool call, the last of `check.calls`, after those before it) are worked out when not given. `risk_spent` is
        what the run's earlier calls took of its risk budget; `parent` the trace context (None: the current one).
        Raises UnknownAgentError when no policy fits; a failing guard never raises: `on_guard_error` decides.
        """
        policy = policy or await self.policy_for(check.agent)
        check = replace(check, policy=policy.ref)
        span = CheckSpan.start(check, policy, self.guard.name, parent)
        try:
            with span.current():  # the guard's own spans and trace headers belong under it
                decision = await self._decide(check, policy, self._evidence(check, policy, matches, rule, risk_spent))
        except BaseException:
            span.cancel()
            raise
        span.end(decision)
        self._record(decision)
        return decision

    async def aclose(self) -> None:
        """Closes the guards this checker built itself."""
        for guard in self._owned:
            await guard.aclose()

    def answered(self, check: Check, approval: Approval, policy: Policy, why: str) -> Decision:
        """Records what a person said to a tool call that the policy asked about."""
        check = replace(check, policy=policy.ref)
        span = CheckSpan.start(check, policy, PERSON)
        action: Action = "allow" if approval in ("approve", "edit") else "block"
        decision = Decision(check, Verdict(guard=PERSON), action, why, policy.mode, approval=approval)
        span.end(decision)
        self._record(decision)
        return decision

    def _evidence(
        self,
        check: Check,
        policy: Policy,
        matches: Sequence[Match] | None,
        rule: RuleOutcome | None,
        risk_spent: float,
    ) -> Evidence:
        if matches is None:
            matches = detected(policy, check.surface, check.content)
        if rule is None and check.surface == "tool_call" and check.calls:
            automaton = automaton_for(policy)
            rule = automaton.decide(state_after(automaton, check.calls[:-1]), check.calls[-1])
        return Evidence(matches, rule, risk_spent)

    async def _decide(self, check: Check, policy: Policy, evidence: Evidence) -> Decision:
        if evidence.needs_no_guard or not _has_questions(check, policy):
            return decide(check, policy, evidence, None)
        return decide(check, policy, evidence, await self._ask(check, policy))

    async def _ask(self, check: Check, policy: Policy) -> Verdict:
        cached = self._cache.get(check, policy, self.guard)
        if cached is not None:
            return cached
        try:
            verdict = await self._runner.check(check, policy)
        except GuardError as error:
            logger.warning("%s", error)
            return await self._without_guard(check, policy, error)
        self._cache.put(check, policy, self.guard, verdict)
        return verdict

    async def _without_guard(self, check: Check, policy: Policy, error: GuardError) -> Verdict:
        failed = Verdict(guard=self.guard.name, guard_version=self.guard.version, error=error.error_type)
        if policy.on_guard_error.on(check.surface) != "fallback" or self._fallback is None:
            return failed
        try:
            verdict = await self._fallback.check(check, policy)
            return replace(verdict, fell_back=error.error_type)
        except GuardError as second:
            logger.warning("the fallback guard failed too: %s", second)
            return failed

    def _reload(self) -> None:
        """Rereads changed policies, in a thread: what a new one needs is loaded there too."""
        if not self.policies.reload():
            return
        try:
            self._warm_up()
        except GuardError as error:
            logger.error("a reloaded policy asks for a fallback guard that can't be built (it will block): %s", error)

    def _warm_up(self) -> None:
        """Loads what the first check would otherwise wait for, with the event loop standing still."""
        for policy in self.policies.policies.values():
            for surface in SURFACES:
                detectors_for(policy, surface)
            if isinstance(self.guard, Preparing):
                self.guard.prepare(policy)
            if self._fallback is None and "fallback" in policy.on_guard_error.model_dump().values():
                self._fallback = self._fallback_runner()

    def _fallback_runner(self) -> GuardRunner | None:
        """The guard that judges when the guard fails; None when that would be the same one again."""
        if self._fallback_guard is None and self.guard.name == "embedded":
            return None
        guard = resolve_guard(self._fallback_guard or "embedded")
        if isinstance(self._fallback_guard, str | None):
            self._owned.append(guard)
        return GuardRunner(guard, self._max_in_flight)

    def _record(self, decision: Decision) -> None:
        self.checks += 1
        if self._recorder is None:
            return
        try:
            self._recorder.record(decision)
        except Exception:
            logger.exception("the recorder failed; the decision on check %s stands", decision.check.id)


def _has_questions(check: Check, policy: Policy) -> bool:
    return bool(policy.categories_on(check.surface)) and bool(check.content.strip())
