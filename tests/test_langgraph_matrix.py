"""However an agent is consumed, nothing of what was withheld is seen by anybody, and clean text is what it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from guardmw.testing import ScriptedChatModel
from guardmw_langgraph import GuardMiddleware, guard_model
from langgraph_world import CONSUMERS, SCENARIOS, Scenario, World, assert_unheard, consumed, said

Built = tuple[Any, ScriptedChatModel]


def lookup(query: str) -> str:
    """Looks something up."""
    return f"nothing about {query}"


def _agent(scenario: Scenario, world: World, **kwargs: Any) -> Built:
    model = scenario.model()
    middleware = GuardMiddleware(scenario.policy, guard=scenario.guard())
    return create_agent(model, [lookup], middleware=[middleware], name="bob", **kwargs), model


def agent(scenario: Scenario, world: World) -> Built:
    return _agent(scenario, world, checkpointer=world.saver)


def handwritten(scenario: Scenario, world: World) -> Built:
    model = scenario.model()
    guarded = guard_model(model, scenario.policy, guard=scenario.guard()).bind_tools([lookup])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await guarded.ainvoke(state["messages"])]}

    def call_sync(state: MessagesState) -> dict[str, Any]:
        return {"messages": [guarded.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("call", RunnableLambda(call_sync, afunc=call))
    graph.add_edge(START, "call")
    return graph.compile(checkpointer=world.saver), model


def streaming_node(scenario: Scenario, world: World) -> Built:
    """A node that streams the model itself."""
    model = scenario.model()
    guarded: BaseChatModel = guard_model(model, scenario.policy, guard=scenario.guard())

    def call(state: MessagesState) -> dict[str, Any]:
        chunks = list(guarded.stream(state["messages"]))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return {"messages": [whole]}

    graph = StateGraph(MessagesState)
    graph.add_node("call", call)
    graph.add_edge(START, "call")
    return graph.compile(checkpointer=world.saver), model


def nested(scenario: Scenario, world: World) -> Built:
    """An agent as a node of a graph."""
    inner, model = _agent(scenario, world)
    graph = StateGraph(MessagesState)
    graph.add_node("inner", inner)
    graph.add_edge(START, "inner")
    return graph.compile(checkpointer=world.saver), model


FEW = ("clean", "violation", "pii split", "tool call")
"""Scenarios that the other graphs are put through; an agent goes through all."""


@pytest.mark.parametrize("how", CONSUMERS)
@pytest.mark.parametrize("build", [agent, handwritten, streaming_node, nested])
async def test_nobody_hears_what_was_withheld(build: Any, how: str) -> None:
    for scenario in SCENARIOS if build is agent else (one for one in SCENARIOS if one.name in FEW):
        world = World()
        graph, model = build(scenario, world)
        yielded = await asyncio.wait_for(consumed(how, graph, world), 10)
        try:
            assert_unheard(scenario.leak, yielded, world)
            final = graph.get_state(world.config).values["messages"][-1]
            goes_on = scenario.goes_on if build in (agent, nested) else None
            assert said(final).endswith(goes_on or scenario.ends_with)
            assert scenario.exactly is None or said(final) == scenario.exactly
            assert model.calls == (2 if goes_on else 1)
            assert final.response_metadata["guardmw"]["policy"] == "test"
        except Exception as error:
            error.add_note(f"scenario: {scenario.name}")
            raise


@pytest.mark.parametrize("how", [how for how in CONSUMERS if how != "astream custom"])
async def test_without_the_guard_everybody_hears_it(how: str) -> None:
    """The tests above would notice a leak: without a guard there is one everywhere."""
    world = World()
    violation = next(scenario for scenario in SCENARIOS if scenario.name == "violation")
    yielded = await consumed(how, create_agent(violation.model(), [lookup], checkpointer=world.saver), world)
    assert violation.leak in yielded
    assert [who for who, what in world.overheard().items() if violation.leak not in what] == []


@pytest.mark.parametrize("mode", ["messages", "updates", "values"])
async def test_clean_text_arrives_unchanged(mode: Any) -> None:
    clean, world = SCENARIOS[0], World()
    graph, _ = agent(clean, world)
    seen = [item async for item in graph.astream({"messages": [("user", "Hello")]}, world.config, stream_mode=mode)]
    if mode == "messages":
        assert "".join(said(message) for message, _ in seen) == clean.exactly
    else:
        last = seen[-1] if mode == "values" else next(update["model"] for update in seen if "model" in update)
        assert said(last["messages"][-1]) == clean.exactly


async def test_nothing_unjudged_in_a_database(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        for scenario in SCENARIOS:
            world = World()
            graph, _ = _agent(scenario, world, checkpointer=saver)
            world.config["configurable"]["thread_id"] = scenario.name
            await consumed("astream all", graph, world)
        dump = await (await saver.conn.execute("select * from checkpoints")).fetchall()
        dump = [*dump, *await (await saver.conn.execute("select * from writes")).fetchall()]
    assert len(dump) > 3 * len(SCENARIOS)
    for scenario in SCENARIOS:
        assert scenario.leak not in repr(dump)
