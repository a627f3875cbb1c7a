"""What a guarded model, a middleware and guarded tools share: one checker, one agent name, one memory of verdicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from guardmw.checker import Checker
from guardmw.guard.base import Guard
from guardmw.policy.automaton import automaton_for
from guardmw.policy.escapes import detected
from guardmw.policy.match import PolicySet
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.traces.record import Recorder
from guardmw.types import Check, Decision, Message, ToolCall
from guardmw_langgraph.callmarks import MARK, CallMark, CallVerdict, mark_of
from guardmw_langgraph.descriptions import Descriptions
from guardmw_langgraph.held import redacted, rendered
from guardmw_langgraph.history import CallHistory, Past
from guardmw_langgraph.internals import running_agent
from guardmw_langgraph.screen import Screen
from guardmw_langgraph.slots import Fields

PolicySource = Policy | PolicySet | str | os.PathLike[str]

REMEMBERED_ANSWERS = 4096


class Seam:
    """Built from the arguments every entry point takes; a pickled one is built anew, a copied one stays the same.

    Raises PolicyError and GuardConfigError when built.
    """

    def __init__(
        self, policy: PolicySource, guard: Guard | str = "embedded", agent: str | None = None,
        recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self._arguments = (policy, guard, agent, recorder)
        self.checker = Checker(policy, guard=guard, recorder=recorder)
        self.screen = Screen(self.checker)
        self.history = CallHistory()
        self.descriptions = Descriptions(self.checker)
        self._agent = agent
        self._answers: dict[str, None] = {}

    def __reduce__(self) -> tuple[type[Seam], tuple[Any, ...]]:
        return Seam, self._arguments

    def __copy__(self) -> Seam:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Seam:
        return self

    @property
    def agent(self) -> str:
        """The name given, else that of the agent running now, else ``default``."""
        return self._agent or running_agent() or "default"

    def mark(
        self, policy: Policy, agent: str, withheld: Decision | None, *, altered: bool, calls: Sequence[CallMark] = ()
    ) -> Fields:
        """What an answer's metadata says about the guard. Only answers marked here count as guarded."""
        answer = uuid4().hex
        self._answers[answer] = None
        if len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.pop(next(iter(self._answers)), None)
        common: Fields = {"answers": [answer], "agent": agent, "policy": policy.id, "policy_hash": policy.hash}
        if calls:
            common["calls"] = [call.as_field() for call in calls]
        if withheld is None:
            return {**common, "action": "redact" if altered else "allow"}
        return {**common, **described(withheld)}

    def guarded(self, message: BaseMessage) -> bool:
        """Whether `message` is an answer that passed this guard."""
        mark = message.response_metadata.get(MARK)
        return isinstance(mark, dict) and any(answer in self._answers for answer in mark.get("answers", ()))

    async def judge_call(
        self,
        call: ToolCall,
        past: Past,
        policy: Policy,
        *,
        conversation: tuple[Message, ...] = (),
        rule: RuleOutcome | None = None,
    ) -> JudgedCall:
        """`call` judged after `past`, by `rule` in place of the policy's rules when that is given."""
        rule = rule or automaton_for(policy).decide(past.state, call)
        check = Check(
            "tool_call", rendered(call), self.agent, conversation=conversation, calls=(*past.calls, call)
        )  # fmt: skip
        matches = detected(policy, "tool_call", check.content)
        decision = await self.checker.check(check, policy=policy, matches=matches, rule=rule, risk_spent=past.risk)
        kept: ToolCall | None = None if decision.enforced == "block" else call
        if kept is not None and decision.enforced in ("redact", "ask") and decision.redactions:
            kept = redacted(call, decision)
        return JudgedCall(call, kept, decision, _instead(decision, rule, policy))


@dataclass(frozen=True, slots=True)
class JudgedCall:
    """A call as it was `asked` for, as it may be made (`kept`; None: not at all), the decision, and a sentence that
    says what would be allowed."""

    asked: ToolCall
    kept: ToolCall | None
    decision: Decision
    instead: str

    @property
    def verdict(self) -> CallVerdict:
        if self.kept is None:
            return "refuse"
        return "ask" if self.decision.enforced == "ask" else "pass"

    def mark(self, policy: Policy, *, schema: Fields | None = None) -> CallMark:
        return mark_of(
            self.asked, self.decision, self.verdict, policy.hash,
            instead=self.instead if self.verdict != "pass" else "",
            schema=schema if self.verdict == "ask" else None,
        )  # fmt: skip


def _instead(decision: Decision, rule: RuleOutcome, policy: Policy) -> str:
    """What would be allowed: as the rule says when it decided, else as the category does."""
    if rule.action in ("deny", "ask"):
        return rule.instead
    grounds = {category.id: category.safe_when for category in policy.categories}
    return next((text for one in decision.verdict.findings if (text := grounds.get(one.category))), "")


def described(decision: Decision) -> Fields:
    """The decision without any of the text it was about."""
    worst = max(decision.verdict.findings, key=lambda finding: finding.probability, default=None)
    return {
        "action": decision.action if decision.withheld else "block",
        "surface": decision.check.surface,
        "category": worst.category if worst is not None else decision.verdict.error,
        "why": decision.why,
        "stream_id": decision.check.stream_id,
    }


def is_block(message: BaseMessage) -> bool:
    """Whether `message` is an answer from which something was withheld."""
    mark = message.response_metadata.get(MARK)
    return isinstance(mark, dict) and mark.get("action") in ("ask", "block")


def blocked_text(policy: Policy, decision: Decision) -> str:
    """What users read instead of what was withheld."""
    return policy.messages.unavailable if decision.verdict.error else policy.messages.blocked


def ends_run(message: BaseMessage) -> bool:
    """Whether `message` is a replacement after which there is nothing more to do."""
    return isinstance(message, AIMessage | AIMessageChunk) and is_block(message) and not message.tool_calls
