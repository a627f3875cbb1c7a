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
from guardmw_langgraph.callmarks import CallMark, call_of, marks_of, not_made
from guardmw_langgraph.history import Past
from guardmw_langgraph.results import refusal
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.settle import CHANGED_POLICY


async def admit(seam: Seam, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
    """`request` as it may run, or what the agent is told instead.

    A call that the model made and the guard let pass is not judged again. One that differs from it (another
    middleware changed it), that never passed the guard, or that was judged under another policy, is judged here; where
    a person would have to be asked it is refused, and asked about when the agent calls it again.
    """
    call, messages = call_of(request.tool_call), messages_in(request.state)
    policy = await seam.checker.policy_for(seam.agent)
    asking, mark = _asking(call, messages)
    if asking is not None and mark is not None and mark.may_be_made(policy.hash):
        return request
    if mark is not None and (mark.verdict == "refuse" or mark.approval in ("reject", "respond")):
        return not_made(call.name, call.id or "", refusal(_what(call), policy.id, mark.why), "refused", mark.ground)
    past = _past(seam, policy, call, messages)
    judged = await seam.judge_call(call, past, policy, conversation=conversation(messages))
    approved = mark is not None and mark.approval in ("approve", "edit")
    if judged.kept is not None and (judged.verdict == "pass" or approved):
        return request.override(tool_call={**request.tool_call, "args": json.loads(judged.kept.arguments)})
    why = CHANGED_POLICY if judged.verdict == "ask" else judged.decision.why
    text = refusal(_what(call), policy.id, why, judged.instead)
    return not_made(call.name, call.id or "", text, "refused", judged.mark(policy).ground)


def _what(call: ToolCall) -> str:
    return f"{call.name!r} was not called"


def messages_in(state: Any) -> list[BaseMessage]:
    """The messages in a graph's state, whatever shape it has."""
    if isinstance(state, list):
        return state
    found = state.get("messages") if isinstance(state, dict) else getattr(state, "messages", None)
    return list(found or [])


def _asking(call: ToolCall, messages: Sequence[BaseMessage]) -> tuple[AIMessage | None, CallMark | None]:
    """The newest message if it makes exactly this call, and what was decided about it there."""
    newest = next((one for one in reversed(messages) if isinstance(one, AIMessage)), None)
    if newest is None or call not in map(call_of, newest.tool_calls):
        return None, None
    return newest, next((mark for mark in marks_of(newest) if mark.id == call.id), None)


def _past(seam: Seam, policy: Policy, call: ToolCall, messages: Sequence[BaseMessage]) -> Past:
    """The past of `call`: what came before the newest message, and the calls listed before it there."""
    past = seam.history.before(messages, policy)
    newest = next((one for one in reversed(messages) if isinstance(one, AIMessage)), None)
    for earlier in map(call_of, newest.tool_calls if newest is not None else ()):
        if earlier.id == call.id:
            break
        past = past.after(automaton_for(policy), earlier)
    return past
