"""What calls of guarded tools took of a run's risk budget where no note of it stands in the state."""

from __future__ import annotations

from collections.abc import Container, Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from guardmw_langgraph.callmarks import MARK, call_state, marks_of
from guardmw_langgraph.groups import is_users

UNNOTED = 1.0
"""What a call costs that left no note: it raised, or what it returned holds no message of its own. Nobody can tell any
more how likely it was unsafe, as with one that passed although the guard failed."""


def cost_of(result: ToolMessage) -> float:
    """What the call that `result` answers took, by the note of the guarded tool that was called."""
    noted = result.response_metadata.get(MARK)
    risk = noted.get("risk", UNNOTED) if isinstance(noted, dict) else UNNOTED
    return float(risk) if isinstance(risk, int | float) else UNNOTED


def unnoted(messages: Sequence[BaseMessage], place: int, tools: Container[str]) -> float:
    """What the calls of `tools` cost that were made in the run so far, before the message at `place`, and of which
    neither a mark nor a note tells what they took."""
    cost = 0.0
    results: dict[str, ToolMessage] = {}
    for at in range(place - 1, _start(messages, place) - 1, -1):
        one = messages[at]
        if isinstance(one, ToolMessage):
            if is_made(one) or one.tool_call_id not in results:
                results[one.tool_call_id] = one
        elif isinstance(one, AIMessage) and one.tool_calls:
            cost += UNNOTED * _unnoted_of(one, results, tools)
    return cost


def _unnoted_of(asking: AIMessage, results: dict[str, ToolMessage], tools: Container[str]) -> int:
    """How many of the calls of `asking` that is; takes their results out of `results`."""
    marked = {mark.id for mark in marks_of(asking)}
    found = {call["id"]: (call["name"], results.pop(call["id"] or "", None)) for call in asking.tool_calls}
    return sum(
        name in tools and call_id not in marked and _is_unnoted(result) for call_id, (name, result) in found.items()
    )


def _is_unnoted(result: ToolMessage | None) -> bool:
    if result is None:
        return True
    noted = result.response_metadata.get(MARK)
    return is_made(result) and not (isinstance(noted, dict) and "risk" in noted)


def is_made(result: ToolMessage | None) -> bool:
    """Whether the call that `result` answers was made, or is being made (None: it has no result yet)."""
    return result is None or call_state(result) in (None, "withheld")


def _start(messages: Sequence[BaseMessage], end: int) -> int:
    """Where the run begins that goes on before `end`: at the user's newest message."""
    return next((place for place in range(end - 1, -1, -1) if is_users(messages, place)), 0)
