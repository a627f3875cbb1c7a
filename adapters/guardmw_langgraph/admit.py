"""The last look before a tool runs: only a call that was judged, as it is and under the policy that holds now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain.agents.middleware import ToolCallRequest
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from guardmw.policy.automaton import automaton_for
from guardmw.policy.schema import Policy
from guardmw.types import ToolCall
from guardmw_langgraph.callmarks import CallMark, call_of, marks_for, not_made
from guardmw_langgraph.history import Past
from guardmw_langgraph.results import refusal
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import JudgedCall, Seam
from guardmw_langgraph.settle import why_unasked


async def admit(seam: Seam, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
    """`request` as it may run, or what the agent is told instead.

    A call that the model made and the guard let pass is not judged again. One that differs from it (somebody changed
    it, in the state or on its way here), that never passed the guard, or that was judged under another policy, is
    judged here; where a person would have to be asked it is refused, and asked about when the agent calls it again.
    """
    call, messages = call_of(request.tool_call), messages_in(request.state)
    policy = await seam.checker.policy_for(seam.agent)
    mark = _mark(call, messages)
    if mark is not None and mark.may_be_made(policy.hash):
        return request
    if mark is not None and mark.forbids:
        text = refusal(_what(call), policy.id, mark.why)
        return not_made(call.name, call.id or "", text, "refused", mark.ground, ends_run=mark.ends_run)
    judged, why = await judge_late(seam, call, messages, policy, mark)
    if judged.kept is None or why:
        return late_refusal(judged, policy, why)
    return request.override(tool_call={**request.tool_call, "args": json.loads(judged.kept.arguments)})


async def judge_late(
    seam: Seam, call: ToolCall, messages: Sequence[BaseMessage], policy: Policy, mark: CallMark | None = None
) -> tuple[JudgedCall, str]:
    """`call` judged just before it runs, and why it may not. Nobody can be asked any more: what would need a person is
    refused, unless `mark` says that this very call was approved."""
    past = _past(seam, policy, call, messages)
    judged = await seam.judge_call(call, past, policy, conversation=conversation(messages))
    approved = mark is not None and mark.approval in ("approve", "edit")
    if judged.verdict == "pass" or (judged.verdict == "ask" and approved):
        return judged, ""
    return judged, why_unasked(mark) if judged.verdict == "ask" else judged.decision.why


def late_refusal(judged: JudgedCall, policy: Policy, why: str) -> ToolMessage:
    """What the agent reads in the place of a result of a call that was refused just before it ran."""
    call, mark = judged.asked, judged.mark(policy)
    text = refusal(_what(call), policy.id, why, judged.instead)
    return not_made(call.name, call.id or "", text, "refused", mark.ground, ends_run=mark.ends_run)


def _what(call: ToolCall) -> str:
    return f"{call.name!r} was not called"


def messages_in(state: Any) -> list[BaseMessage]:
    """The messages in a graph's state, whatever shape it has."""
    if isinstance(state, list):
        return state
    found = state.get("messages") if isinstance(state, dict) else getattr(state, "messages", None)
    return list(found or [])


def _newest(messages: Sequence[BaseMessage]) -> AIMessage | None:
    return next((one for one in reversed(messages) if isinstance(one, AIMessage)), None)


def _decided(messages: Sequence[BaseMessage]) -> list[tuple[ToolCall, CallMark | None]]:
    """The calls of the newest message, in their listed order, and what was decided about each of them there."""
    newest = _newest(messages)
    calls = [call_of(call) for call in newest.tool_calls] if newest is not None else []
    return list(zip(calls, marks_for(calls, newest), strict=True)) if newest is not None else []


def _mark(call: ToolCall, messages: Sequence[BaseMessage]) -> CallMark | None:
    """What the newest message says was decided about exactly this call; of calls that are alike, about the last."""
    return next((mark for one, mark in reversed(_decided(messages)) if one == call), None)


def _past(seam: Seam, policy: Policy, call: ToolCall, messages: Sequence[BaseMessage]) -> Past:
    """The past of `call`: what came before the newest message, and the calls listed before it there that are made."""
    past, decided = seam.history.before(messages, policy), _decided(messages)
    for earlier, mark in decided[: _place(call, [one for one, _ in decided])]:
        if mark is None or not mark.forbids:
            past = past.spending(mark.cost if mark is not None else 0.0).after(automaton_for(policy), earlier)
    return past


def _place(call: ToolCall, calls: Sequence[ToolCall]) -> int:
    """Where `call` stands among `calls`, or the one it was before it was changed: the last that it can be."""
    alike = [place for place, one in enumerate(calls) if one == call]
    renamed = [place for place, one in enumerate(calls) if one.id == call.id]
    return max(alike or renamed, default=len(calls))
