"""The answer to a call of a tool whose own description may not be read."""

from __future__ import annotations

from typing import Any, Final

from langchain_core.messages import ToolMessage

from guardmw.policy.schema import Policy
from guardmw_langgraph.batch import RunEnded
from guardmw_langgraph.callmarks import not_made
from guardmw_langgraph.descriptions import name_of
from guardmw_langgraph.internals import running_task
from guardmw_langgraph.results import refusal
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.watched import is_guarded

GROUND: Final = "description"
"""The ground on which such a call is refused."""


async def refused_tool(seam: Seam, tool: Any, call_id: str | None) -> ToolMessage | None:
    """What stands in the place of a result of `tool`; None when its description, as it is now, may be read.

    The model isn't offered such a tool; one whose description changed since it was is caught here.
    Raises PoisonedToolError where the policy refuses to run with it, and RunEnded when a guarded tool was refused so in
    as many messages as the policy bears. Round other tools GuardMiddleware ends the run.
    """
    if tool is None:
        return None
    agent = seam.agent
    policy = await seam.checker.policy_for(agent)
    decision = await seam.descriptions.poisoned(tool, policy, agent)
    if decision is None:
        return None
    name, why = name_of(tool), f"its description may not pass ({decision.why})"
    if is_guarded(tool) and _refused_before(seam, policy, name) + 1 >= policy.limits.refusals:
        raise RunEnded(f"the policy {policy.id!r} ends the run here: {name!r} was called again, and {why}")
    return not_made(name, call_id or "", refusal(f"{name!r} was not called", policy.id, why), "refused", GROUND)


def _refused_before(seam: Seam, policy: Policy, name: str) -> int:
    """In how many messages of the run that is going on calls of the tool `name` were refused so."""
    task = running_task()
    messages = task.messages if task is not None else None
    return seam.history.before(messages or [], policy).refusals.get((name, GROUND), 0)
