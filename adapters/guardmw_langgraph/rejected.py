"""The answer to a call of a tool whose own description may not be read."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import ToolMessage

from guardmw_langgraph.callmarks import not_made
from guardmw_langgraph.descriptions import name_of
from guardmw_langgraph.results import refusal
from guardmw_langgraph.seam import Seam


async def refused_tool(seam: Seam, tool: Any, call_id: str | None) -> ToolMessage | None:
    """What stands in the place of a result of `tool`; None when its description, as it is now, may be read.

    The model isn't offered such a tool; one whose description changed since it was is caught here.
    Raises PoisonedToolError where the policy refuses to run with it.
    """
    if tool is None:
        return None
    agent = seam.agent
    policy = await seam.checker.policy_for(agent)
    decision = await seam.descriptions.poisoned(tool, policy, agent)
    if decision is None:
        return None
    name = name_of(tool)
    text = refusal(f"{name!r} was not called", policy.id, f"its description may not pass ({decision.why})")
    return not_made(name, call_id or "", text, "refused", "description")
