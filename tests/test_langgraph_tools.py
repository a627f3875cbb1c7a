"""guard_tools: the call before, the result after."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, tool
from langgraph.prebuilt import InjectedState, ToolNode

from guardmw.policy.schema import Category, ToolRule, Tools
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import guard_tools
from langgraph_world import FORBIDDEN, MAIL, Overheard, policy

ran: list[Any] = []


@tool
def look(at: str) -> str:
    """Looks at something."""
    ran.append(at)
    return {"secret": FORBIDDEN, "mail": MAIL}.get(at, f"saw {at}")


@tool
async def alook(at: str) -> str:
    """Looks at something, asynchronously."""
    return str(look.func(at))  # type: ignore[attr-defined]


class Looking(BaseTool):
    name: str = "looking"
    description: str = "Looks, written as a class."

    def _run(self, at: str) -> str:
        return str(look.func(at))  # type: ignore[attr-defined]


def guarded(*tools: Any, **changes: Any) -> list[BaseTool]:
    ran.clear()
    return guard_tools(tools, policy(**changes), guard=FakeGuard(FORBIDDEN))


@pytest.mark.parametrize("kind", [look, alook, Looking()])
async def test_calls_and_results_are_judged(kind: BaseTool) -> None:
    (one,) = guarded(kind)
    assert await one.ainvoke({"at": "hats"}) == "saw hats"
    assert await one.ainvoke({"at": "mail"}) == "[EMAIL]"
    assert "the result of" in await one.ainvoke({"at": "secret"})
    assert "was not called" in await one.ainvoke({"at": FORBIDDEN})
    assert await one.ainvoke({"at": MAIL}) == "saw [EMAIL]"
    assert ran == ["hats", "mail", "secret", "[EMAIL]"]
    assert (one.name, one.description, one.args) == (kind.name, kind.description, kind.args)


@pytest.mark.parametrize("kind", [look, Looking()])
async def test_synchronous_calls_are_judged(kind: BaseTool) -> None:
    (one,) = guarded(kind)
    assert await asyncio.to_thread(one.invoke, {"at": "mail"}) == "[EMAIL]"
    assert "was not called" in await asyncio.to_thread(one.invoke, {"at": FORBIDDEN})
    assert ran == ["mail"]


async def test_each_is_judged_once() -> None:
    guard = FakeGuard()
    (one,) = guard_tools([look], policy(), guard=guard)
    await one.ainvoke({"at": "hats"})
    assert [check.content for check in guard.checks] == ['look({"at": "hats"})', "saw hats"]


async def test_nobody_hears_the_result_that_was_withheld() -> None:
    heard = Overheard()
    (one,) = guarded(look)
    await one.ainvoke({"at": "secret"}, {"callbacks": [heard]})
    assert "saw" not in repr(heard.heard)
    assert FORBIDDEN not in repr(heard.heard)
    assert heard.heard


async def test_rules_and_originals() -> None:
    (one,) = guarded(look, tools=Tools(rules=(ToolRule(tool="look", action="deny"),)))
    assert "was not called" in await one.ainvoke({"at": "hats"})
    assert await look.ainvoke({"at": "hats"}) == "saw hats"


async def test_injected_arguments_arrive_and_are_not_judged() -> None:
    guard = FakeGuard(FORBIDDEN)

    @tool
    def inject(at: str, state: Annotated[dict[str, Any], InjectedState], extra: Annotated[str, InjectedToolArg]) -> str:
        """Uses the state."""
        return f"{at} {len(state['messages'])} {extra}"

    (one,) = guard_tools([inject], policy(), guard=guard)
    schema: Any = one.tool_call_schema
    assert list(schema.model_json_schema()["properties"]) == ["at"]
    node = ToolNode([one])
    assert list(node.tools_by_name) == ["inject"]
    assert await one.ainvoke({"at": "x", "state": {"messages": [FORBIDDEN]}, "extra": "e"}) == "x 1 e"
    assert guard.checks[0].content == 'inject({"at": "x"})'


async def test_artifacts_go_with_their_content() -> None:
    @tool(response_format="content_and_artifact")
    def fetch(what: str) -> tuple[str, Any]:
        """Fetches."""
        return what, {"raw": what}

    rules = (Category(id="c", title="t", unsafe_when="u", surfaces=("tool_result",)),)
    (one,) = guarded(fetch, categories=rules)
    for what, artifact in (("hat", {"raw": "hat"}), (FORBIDDEN, None), ("", {"raw": ""})):
        message = await one.ainvoke({"name": "fetch", "args": {"what": what}, "id": "1", "type": "tool_call"})
        assert isinstance(message, ToolMessage)
        assert message.artifact == artifact


async def test_functions_become_tools_and_serve_an_agent() -> None:
    def shout(text: str) -> str:
        """Shouts."""
        return text.upper()

    (one,) = guarded(shout)
    assert isinstance(one, StructuredTool)
    model = ScriptedChatModel([[{"name": "shout", "args": {"text": FORBIDDEN.lower()}}], "Done"])
    agent: Any = create_agent(model, [one])
    messages = (await agent.ainvoke({"messages": [("user", "Hi")]}))["messages"]
    assert "Withheld" in messages[-2].content


async def test_results_that_are_no_text() -> None:
    @tool
    def table(rows: int) -> list[dict[str, Any]]:
        """A table."""
        return [{"row": row, "mail": MAIL if row else None} for row in range(rows)]

    (one,) = guarded(table)
    assert await one.ainvoke({"rows": 1}) == [{"row": 0, "mail": None}]
    assert await one.ainvoke({"rows": 2}) == '[{"row": 0, "mail": null}, {"row": 1, "mail": "[EMAIL]"}]'
