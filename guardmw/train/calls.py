"""Tool calls as rows and written trajectories spell them, and as a guard meets them in an agent."""

from __future__ import annotations

import json
import re
from typing import Any

from guardmw.train.dataset import Row
from guardmw.types import Check, Message, ToolCall

__all__ = ["NO_ARGUMENTS", "call_checks", "call_text", "live_text", "step_call"]

NO_ARGUMENTS = "({})"
"""How the text of a call ends that has none."""

ARGUMENTS = ("arguments", "input", "parameters", "args")
"""What calls written as JSON call their arguments; OpenAI's hold them as a string."""

_STEP_CALL = re.compile(r"(?P<name>[\w.-]+)\"?(?:\s*\n\s*Action Input:)?\s*\(?(?P<arguments>\{)")


def call_checks(content: str, said: tuple[Message, ...]) -> list[Check]:
    """A check for each call that `content` writes as JSON, each with those before it as made. What can't be read is
    judged as it stands, as a call without a name."""
    calls = _calls(content)
    if not calls:
        return [Check("tool_call", content, conversation=said, calls=(ToolCall("", content),))]
    return [
        Check("tool_call", call_text(call), conversation=said, calls=tuple(calls[: place + 1]))
        for place, call in enumerate(calls)
    ]


def live_text(row: Row) -> str:
    """The content of `row` as a guard meets it: calls as an agent makes them, one to a line."""
    if row.task != "tool_call":
        return row.content
    return "\n".join(check.content for check in call_checks(row.content, ()))


def call_text(call: ToolCall) -> str:
    """The text of a call that a guard judges in an agent."""
    return f"{call.name}({call.arguments})"


def step_call(text: str) -> tuple[ToolCall, str] | None:
    """The call in a step such as ``Search {"query": "x"}`` or ``Search({"query": "x"})``, with or without ``Action
    Input:``, and what a guard judges of it: the step as it stands when there is more to it. None where it is prose."""
    found = _STEP_CALL.match(text)
    if found is None:
        return None
    try:
        arguments, end = json.JSONDecoder().raw_decode(text, found.start("arguments"))
    except (ValueError, RecursionError):
        return None
    call = ToolCall(found["name"], json.dumps(arguments, ensure_ascii=False))
    return call, call_text(call) if text[end:].strip() in ("", ")") else text


def _calls(content: str) -> list[ToolCall]:
    """All the calls in `content`, or none when one of them can't be read as a call."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return []
    made = [_call(each) for each in (found if isinstance(found, list) else [found])]
    return [call for call in made if call] if all(made) else []


def _call(written: Any) -> ToolCall | None:
    if not isinstance(written, dict):
        return None
    inner = written.get("function")
    call = inner if isinstance(inner, dict) else written
    given = next((call[key] for key in ARGUMENTS if key in call), None)
    nameless = not isinstance(call.get("name"), str)
    if nameless or (given is None and any(isinstance(value, dict | list) for value in call.values())):
        return None
    return ToolCall(call["name"], json.dumps(_unpacked(given), ensure_ascii=False))


def _unpacked(given: Any) -> Any:
    """Arguments, of which JSON in a string is what it says."""
    if not isinstance(given, str):
        return {} if given is None else given
    try:
        return json.loads(given) if given.strip() else {}
    except (ValueError, RecursionError):
        return given
