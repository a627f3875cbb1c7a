"""What calls of guarded tools took of a run's risk budget, by the notes these tools leave on their results."""

from __future__ import annotations

from langchain_core.messages import ToolMessage

from guardmw_langgraph.callmarks import MARK, call_state

UNNOTED = 1.0
"""What a call costs that left no note: it raised, or what it returned holds no message of its own. Nobody can tell any
more how likely it was unsafe, as with one that passed although the guard failed."""


def noted_risk(result: ToolMessage | None) -> float | None:
    """What the call that `result` answers took, by the note of the guarded tool that was called; None without one."""
    noted = result.response_metadata.get(MARK) if result is not None else None
    risk = noted.get("risk") if isinstance(noted, dict) else None
    return float(risk) if isinstance(risk, int | float) else None


def cost_of(result: ToolMessage) -> float:
    """What the call that `result` answers took, noted or not."""
    risk = noted_risk(result)
    return UNNOTED if risk is None else risk


def is_made(result: ToolMessage | None) -> bool:
    """Whether the call that `result` answers was made, or is being made (None: it has no result yet)."""
    return result is None or call_state(result) in (None, "withheld")
