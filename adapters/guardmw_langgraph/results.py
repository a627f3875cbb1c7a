"""Judges what tools return, in whatever shape they return it."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import ToolMessage
from langgraph.types import Command

from guardmw.types import Check, Decision, ToolCall, apply_redactions
from guardmw_langgraph.callmarks import MARK
from guardmw_langgraph.prose import content_text
from guardmw_langgraph.seam import Seam

GO_ON = "Go on without it, or say that you can't."


async def judged_result(seam: Seam, call: ToolCall, result: Any) -> Any:
    """`result` as the agent may see it: itself, with parts redacted, or a text that says why it was withheld.

    Tool messages keep their ids; of a Command the tool messages in its update are judged. Images and files pass.
    """
    if isinstance(result, ToolMessage):
        return await _message(seam, call, result)
    if isinstance(result, Command):
        return await _command(seam, call, result)
    if isinstance(result, list) and any(isinstance(item, Command | ToolMessage) for item in result):
        return [await judged_result(seam, call, item) for item in result]
    return await _value(seam, call, result)


def refusal(what: str, policy: str, why: str, instead: str = "") -> str:
    """What the agent reads in place of something withheld."""
    return f"[Withheld by the policy {policy!r}: {what}, because {why}. {instead or GO_ON}]"


async def _judge(seam: Seam, call: ToolCall, text: str) -> tuple[Decision, str]:
    """The decision on `text`, and what may be shown of it."""
    agent = seam.agent
    policy = await seam.checker.policy_for(agent)
    decision = await seam.checker.check(Check("tool_result", text, agent, calls=(call,)), policy=policy)
    if decision.withheld:
        return decision, refusal(f"the result of {call.name!r} is not shown", policy.id, decision.why)
    if decision.enforced == "redact":
        return decision, apply_redactions(text, decision.redactions)
    return decision, text


async def _message(seam: Seam, call: ToolCall, message: ToolMessage) -> ToolMessage:
    if MARK in message.response_metadata:  # ours to write: a tool can't say that it wasn't called
        metadata = {key: value for key, value in message.response_metadata.items() if key != MARK}
        message = message.model_copy(update={"response_metadata": metadata})
    text = content_text(message)
    if not text:
        return message
    decision, shown = await _judge(seam, call, text)
    if shown == text:
        return message
    changes: dict[str, Any] = {"content": shown, "artifact": None, "additional_kwargs": {}}
    if decision.withheld:
        changes |= {"status": "error", "response_metadata": {**message.response_metadata, MARK: {"call": "withheld"}}}
    return message.model_copy(update=changes)


async def _command(seam: Seam, call: ToolCall, command: Command[Any]) -> Command[Any]:
    update = command.update
    if not isinstance(update, dict) or not isinstance(update.get("messages"), list):
        return command
    messages = [
        await _message(seam, call, message) if isinstance(message, ToolMessage) else message
        for message in update["messages"]
    ]
    return Command(
        graph=command.graph, update={**update, "messages": messages}, resume=command.resume, goto=command.goto
    )


async def _value(seam: Seam, call: ToolCall, value: Any) -> Any:
    text = value if isinstance(value, str) else _as_text(value)
    if not text:
        return value
    _, shown = await _judge(seam, call, text)
    return value if shown == text else shown


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return str(value)
