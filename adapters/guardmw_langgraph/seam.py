"""What a guarded model, a middleware and guarded tools share: one checker, one agent name, one memory of verdicts."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from guardmw.checker import Checker
from guardmw.guard.base import Guard
from guardmw.policy.match import PolicySet
from guardmw.policy.schema import Policy
from guardmw.traces.record import Recorder
from guardmw.types import Check, Decision, ToolCall
from guardmw_langgraph.answer import MARK
from guardmw_langgraph.held import redacted, rendered
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

    def mark(self, policy: Policy, agent: str, withheld: Decision | None, *, altered: bool) -> Fields:
        """What an answer's metadata says about the guard. Only answers marked here count as guarded."""
        answer = uuid4().hex
        self._answers[answer] = None
        if len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.pop(next(iter(self._answers)), None)
        common: Fields = {"answers": [answer], "agent": agent, "policy": policy.id, "policy_hash": policy.hash}
        if withheld is None:
            return {**common, "action": "redact" if altered else "allow"}
        return {**common, **described(withheld)}

    def guarded(self, message: BaseMessage) -> bool:
        """Whether `message` is an answer that passed this guard."""
        mark = message.response_metadata.get(MARK)
        return isinstance(mark, dict) and any(answer in self._answers for answer in mark.get("answers", ()))

    async def judge_call(
        self, call: ToolCall, history: tuple[ToolCall, ...], policy: Policy, check: Check
    ) -> tuple[ToolCall | None, Decision]:
        """`call` as it may be made (None: not at all) and the decision; `check` gives agent and conversation."""
        decision = await self.checker.check(
            Check("tool_call", rendered(call), check.agent, conversation=check.conversation, calls=(*history, call)),
            policy=policy,
        )
        if decision.withheld:
            return None, decision
        if decision.enforced == "redact" and decision.redactions:
            return redacted(call, decision), decision
        return call, decision


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
