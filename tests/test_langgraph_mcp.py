"""Tools of a real MCP server, over stdio, behind the guard."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from guardmw.policy.schema import Results, SequenceRule, ToolRule, Tools
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder
from guardmw_langgraph import GuardMiddleware, guard_model, guard_tools
from langgraph_world import FORBIDDEN, MAIL, policy
from toolbox import call, results

pytestmark = pytest.mark.timeout(180)  # a server is a process of its own, slow to start on a busy machine

SERVER = Path(__file__).parent / "shop_mcp.py"


@asynccontextmanager
async def shop(mood: str = "kind") -> AsyncIterator[list[BaseTool]]:
    """The tools of a server that runs meanwhile."""
    connection: Any = {"transport": "stdio", "command": sys.executable, "args": [str(SERVER), mood]}
    async with MultiServerMCPClient({"shop": connection}).session("shop") as session:
        yield await load_mcp_tools(session)


async def answered(*calls: dict[str, Any], **changes: Any) -> list[ToolMessage]:
    """What an agent reads of `calls`, each in a message of its own."""
    turns: list[Any] = [[one] for one in calls]
    middleware = GuardMiddleware(policy(**changes), guard=FakeGuard(FORBIDDEN))
    async with shop() as tools:
        agent: Any = create_agent(ScriptedChatModel([*turns, "Done."]), tools, middleware=[middleware])
        return results(await agent.ainvoke({"messages": [("user", "Hello")]}))


async def node_answered(*calls: dict[str, Any], **changes: Any) -> list[ToolMessage]:
    """The same in a graph written by hand."""
    made: list[Any] = [{**one, "id": str(place), "type": "tool_call"} for place, one in enumerate(calls)]
    asking: list[Any] = [HumanMessage("Hello"), AIMessage("", tool_calls=made)]
    graph = StateGraph(MessagesState)
    async with shop() as tools:
        graph.add_node("tools", ToolNode(guard_tools(tools, policy(**changes), guard=FakeGuard(FORBIDDEN))))
        graph.add_edge(START, "tools")
        return results(await graph.compile().ainvoke({"messages": asking}))


@pytest.mark.parametrize("ask", [answered, node_answered])
async def test_results_of_a_server_are_judged(ask: Any) -> None:
    calls = [call("stock", article=what) for what in ("hat", "cap", "owner")]
    hat, cap, owner = await ask(*calls)
    assert hat.text == "There are 12 hats in stock."
    assert hat.artifact == {"structured_content": {"result": "There are 12 hats in stock."}}
    assert "the result of 'stock' is not shown (text, " in cap.text
    assert FORBIDDEN not in repr(cap)
    assert "[EMAIL]" in owner.text
    assert MAIL not in repr(owner)


@pytest.mark.parametrize("ask", [answered, node_answered])
async def test_failures_of_a_server_are_judged(ask: Any) -> None:
    plain, planted = await ask(call("fail", how="softly"), call("fail", how="badly"))
    assert plain.status == planted.status == "error"
    assert "no such table" in plain.text
    assert "what went wrong in 'fail' is not shown" in planted.text
    assert FORBIDDEN not in repr(planted)


@pytest.mark.parametrize("ask", [answered, node_answered])
async def test_rules_hold_for_a_servers_tools(ask: Any) -> None:
    tools = Tools(
        rules=(ToolRule(tool="fail", action="deny"),), sequences=(SequenceRule(name="s", after="stock", never="price"),)
    )
    calls = [call("fail", how="softly"), call("stock", article="hat"), call("price", article="hat")]
    denied, hat, price = await ask(*calls, tools=tools)
    assert "'fail' was not called" in denied.text
    assert "hats" in hat.text
    assert "'price' may not be called after 'stock'" in price.text


async def test_pictures_of_a_server_pass_beside_their_text() -> None:
    (one,) = await answered(call("picture", article="hat"))
    assert isinstance(one.content, list)
    assert [block["type"] for block in one.content if isinstance(block, dict)] == ["text", "image"]
    (one,) = await answered(call("picture", article="hat"), tools=Tools(results=Results(media="drop")))
    assert one.content == "Here is the hat.\n[image left out: it can't be judged]"


async def test_a_poisoned_description_is_left_out_and_its_tool_is_not_called(caplog: pytest.LogCaptureFixture) -> None:
    recorder = MemoryRecorder()
    middleware = GuardMiddleware(policy(), guard=FakeGuard(FORBIDDEN), recorder=recorder)
    model = ScriptedChatModel([[call("price", article="hat")], [call("stock", article="hat")], "Done."])
    with caplog.at_level(logging.WARNING, "guardmw.tools"):
        async with shop("poisoned") as tools:
            agent: Any = create_agent(model, tools, middleware=[middleware])
            state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert "'price' was not called" in results(state)[0].text
    assert "12 hats" in results(state)[1].text
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["the tool 'price' is left out"]
    found = [one for one in recorder.decisions if one.check.origin == "description"]
    assert {one.check.calls[-1].name: one.action for one in found} == {
        "stock": "allow", "price": "block", "fail": "allow", "picture": "allow",
    }  # fmt: skip


async def test_a_server_that_turns_bad_is_caught() -> None:
    """The rug pull: the same tools, loaded again, say something else."""
    middleware = GuardMiddleware(policy(), guard=FakeGuard(FORBIDDEN))

    async def ask(mood: str) -> str:
        model = ScriptedChatModel([[call("price", article="hat")], "Done."])
        async with shop(mood) as tools:
            agent: Any = create_agent(model, tools, middleware=[middleware])
            return results(await agent.ainvoke({"messages": [("user", "Hello")]}))[0].text

    assert '"euros": 20' in await ask("kind")
    assert "'price' was not called" in await ask("poisoned")
    assert '"euros": 20' in await ask("kind")


async def test_a_guarded_model_is_not_told_of_a_poisoned_tool() -> None:
    model = guard_model(ScriptedChatModel(["Hello."]), policy(), guard=FakeGuard(FORBIDDEN))
    told: list[str] = []
    offered = model.seam.descriptions.offered

    async def noted(*args: Any) -> list[Any]:
        found = await offered(*args)
        told.extend(one["function"]["name"] for one in found)
        return found

    model.seam.descriptions.offered = noted  # type: ignore[assignment, method-assign]
    async with shop("poisoned") as tools:
        await model.bind_tools(tools).ainvoke("Hello")
    assert told == ["stock", "fail", "picture"]
