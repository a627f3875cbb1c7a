"""Asking a person about tool calls, in the shape of LangChain's HumanInTheLoopMiddleware.

The request is ``{"action_requests": [...], "review_configs": [...]}``, one entry of each for every asked call of the
message; the answer is ``{"decisions": [...]}`` with as many, in the same order: ``{"type": "approve"}``, ``{"type":
"edit", "edited_action": {"name": ..., "args": {...}}}``, ``{"type": "reject", "message": ...}`` or ``{"type":
"respond", "message": ...}``. An answer that can't be used raises, and the same request can be answered again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from guardmw.errors import ApprovalError
from guardmw.policy.argschema import tool_mismatch
from guardmw.types import Approval, ToolCall
from guardmw_langgraph.callmarks import CallMark
from guardmw_langgraph.internals import interrupted
from guardmw_langgraph.slots import Fields

DECISIONS: Final[tuple[Approval, ...]] = ("approve", "edit", "reject", "respond")


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that a person is to decide about, and why."""

    call: ToolCall
    mark: CallMark


@dataclass(frozen=True, slots=True)
class Answered:
    """What a person said to a call: `call` is the one to make (their own after an edit), `text` their message."""

    approval: Approval
    call: ToolCall
    text: str = ""


def ask(asked: Sequence[Asked]) -> list[Answered]:
    """Interrupts the graph until a person has decided about all of `asked`; what they said, in the same order.

    Raises ApprovalError (within pydantic's ValidationError, where LangGraph knows schemas of answers) when the answer
    can't be used.
    """
    return read(interrupted(request_for(asked), lambda answer: read(answer, asked)), asked)


def request_for(asked: Sequence[Asked]) -> Fields:
    return {
        "action_requests": [_action(one) for one in asked],
        "review_configs": [_review(one) for one in asked],
    }


def _action(asked: Asked) -> Fields:
    args = json.loads(asked.call.arguments)
    description = f"The policy asks for a person's approval: {asked.mark.why}\n\nTool: {asked.call.name}\nArgs: {args}"
    return {"name": asked.call.name, "args": args, "description": description}


def _review(asked: Asked) -> Fields:
    review: Fields = {"action_name": asked.call.name, "allowed_decisions": list(DECISIONS)}
    return {**review, "args_schema": asked.mark.schema} if asked.mark.schema else review


def read(answer: Any, asked: Sequence[Asked]) -> list[Answered]:
    """The decisions in `answer`. Raises ApprovalError, which says what is wrong and what was expected."""
    decisions = answer.get("decisions") if isinstance(answer, dict) else None
    if not isinstance(decisions, list | tuple):
        raise ApprovalError(f"the answer is {_kind(answer)}", 'resume with {"decisions": [{"type": "approve"}, ...]}')
    if len(decisions) != len(asked):
        problem = f"{len(decisions)} decisions came back for {len(asked)} calls"
        names = ", ".join(one.call.name for one in asked)
        raise ApprovalError(problem, f"give one decision for each call, in this order: {names}")
    return [_decision(decision, one, place) for place, (decision, one) in enumerate(zip(decisions, asked, strict=True))]


def _decision(decision: Any, asked: Asked, place: int) -> Answered:
    kind = decision.get("type") if isinstance(decision, dict) else None
    match kind:
        case "approve":
            return Answered("approve", asked.call)
        case "edit":
            return Answered("edit", _edited(decision.get("edited_action"), asked, place))
        case "reject":
            return Answered("reject", asked.call, _text(decision, place, required=False))
        case "respond":
            return Answered("respond", asked.call, _text(decision, place, required=True))
        case _:
            raise ApprovalError(f"decision {place} has the type {kind!r}", f"use one of {', '.join(DECISIONS)}")


def _edited(action: Any, asked: Asked, place: int) -> ToolCall:
    where = f"the edit in decision {place} (of {asked.call.name!r})"
    if not isinstance(action, dict) or not isinstance(action.get("args"), dict):
        raise ApprovalError(
            f"{where} is no call", 'write it as {"type": "edit", "edited_action": {"name": ..., "args": {...}}}'
        )
    name = action.get("name", asked.call.name)
    if name != asked.call.name:
        raise ApprovalError(f"{where} names another tool, {name!r}", "reject the call and say what to call instead")
    if asked.mark.schema and (wrong := tool_mismatch(action["args"], asked.mark.schema)):
        raise ApprovalError(f"{where} breaks the tool's schema: {wrong}", "mend the arguments and answer again")
    try:
        arguments = json.dumps(action["args"], ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ApprovalError(f"{where} has arguments that are no JSON ({error})", "use plain values") from error
    return ToolCall(name, arguments, asked.call.id)


def _text(decision: Fields, place: int, *, required: bool) -> str:
    text = decision.get("message")
    if text is None and not required:
        return ""
    if not isinstance(text, str):
        raise ApprovalError(f"decision {place} has no text under `message`", "say it there")
    return text


def _kind(value: Any) -> str:
    return "no object" if not isinstance(value, dict) else f"an object with the keys {sorted(map(str, value))}"
