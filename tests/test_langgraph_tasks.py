"""guard_tools: calls that are run one by one, in tasks of their own, or by nodes that hand over less than the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, Tool, tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command
from pydantic import BaseModel

from guardmw.policy import parse_policy
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder
from guardmw_langgraph import guard_tools
from guardmw_langgraph.batch import Batches
from guardmw_langgraph.internals import RunningTask
from guardmw_langgraph.seam import Seam
from langgraph_world import MAIL
from toolbox import call, results

ONCE = "id: once\ntools: {sequences: [{name: once, tool: look, at_most: 1}]}"
ORDERS = {
    "at most": ONCE,
    "after": "id: after\ntools: {sequences: [{name: x, after: look, never: post}]}",
    "taint": "id: taint\ntools: {sequences: [{name: x, taint: look, never_into: post}]}",
    "budget": "id: budget\ntools: {risk_budget: 1.0}",
}
BUDGET = """
id: budget
tools: {risk_budget: 1.0}
categories:
  - {id: c, title: t, unsafe_when: u, surfaces: [tool_call], block_above: 0.95, ask_above: 0.94}
"""
HELLO: Any = {"messages": [("user", "Hello")]}
ran: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@tool
async def look(at: str = "") -> str:
    """Looks at something."""
    ran.append(at)
    return f"saw {at}"


@tool
async def post(text: str = "") -> str:
    """Posts."""
    ran.append(text)
    return "posted"


@tool
async def fails(at: str) -> str:
    """Fails."""
    ran.append(at)
    raise ValueError("no")


@tool
async def commands(at: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """Answers with a command."""
    ran.append(at)
    return Command(update={"messages": [ToolMessage("done", tool_call_id=tool_call_id)]})


@tool
async def listed(at: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """Answers with a message and a command."""
    ran.append(at)
    return [Command(update={}), ToolMessage("done", tool_call_id=tool_call_id)]


def cyclic(model: Any, node: Any) -> Any:
    """A graph of `model` and a `node` that runs its calls."""

    async def answers(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    built = StateGraph(MessagesState)
    built.add_node("model", answers)
    built.add_node("tools", node)
    built.add_edge(START, "model")
    built.add_conditional_edges("model", tools_condition)
    built.add_edge("tools", "model")
    return built.compile()


def by_arguments(tools: dict[str, Any]) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        calls = getattr(state["messages"][-1], "tool_calls", ())
        said = [ToolMessage(await tools[one["name"]].ainvoke(one["args"]), tool_call_id=one["id"]) for one in calls]
        return {"messages": said}

    return node


def by_other_ids(tools: dict[str, Any]) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        calls = getattr(state["messages"][-1], "tool_calls", ())
        asking = AIMessage("", tool_calls=[{**one, "id": f"new-{one['id']}"} for one in calls])
        found = await ToolNode(list(tools.values())).ainvoke({"messages": [asking]})
        return {
            "messages": [one.model_copy(update={"tool_call_id": one.tool_call_id[4:]}) for one in found["messages"]]
        }

    return node


WAYS: dict[str, Callable[[dict[str, Any]], Any]] = {"arguments": by_arguments, "other ids": by_other_ids}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", WAYS)
async def test_where_the_order_matters_a_call_nobody_can_find_is_refused(way: str, order: str) -> None:
    tools = guard_tools([look, post], parse_policy(ORDERS[order]), guard="detectors")
    turns: list[Any] = [[call("look", at="a")], [call("post", text="b")], [call("look", at="c")], "Done."]
    state = await cyclic(ScriptedChatModel(turns), WAYS[way]({one.name: one for one in tools})).ainvoke(HELLO)
    assert ran == []
    assert all("with the whole tool call, from a message that is in the state" in one.text for one in results(state))


@pytest.mark.parametrize("order", ORDERS)
async def test_without_a_graph_there_is_no_order_either(order: str) -> None:
    (one, _) = guard_tools([look, post], parse_policy(ORDERS[order]), guard="detectors")
    assert "the order of calls can't be known" in await one.ainvoke({"at": "a"})
    answer = await one.ainvoke({"name": "look", "args": {"at": "a"}, "id": "1", "type": "tool_call"})
    assert answer.response_metadata["guardmw"]["call"] == "refused"
    assert "the order of calls" in str(await one._arun(at="a", config={}))
    assert ran == []


async def test_shadow_mode_refuses_no_call_that_cannot_be_found() -> None:
    recorder = MemoryRecorder()
    (one,) = guard_tools([look], parse_policy(f"{ONCE}\nmode: shadow"), guard="detectors", recorder=recorder)
    assert await one.ainvoke({"at": "a"}) == "saw a"
    assert [each.action for each in recorder.decisions if each.check.surface == "tool_call"] == ["block"]


async def test_a_refused_sibling_does_not_count() -> None:
    policy = ONCE.replace("tools: {", "tools: {rules: [{tool: look, args: {at: {pattern: '^ok'}}}], ")
    turn = [call("look", at="evil", id="1"), call("look", at="ok", id="2"), call("look", at="ok too", id="3")]
    tools = guard_tools([look], parse_policy(policy), guard="detectors")
    state = await create_agent(ScriptedChatModel([turn, "Done."]), tools).ainvoke(HELLO)
    assert ran == ["ok"]
    assert ["does not match" in results(state)[0].text, "once at most" in results(state)[2].text] == [True, True]


class Item(BaseModel):
    mail: str
    count: int


@tool
async def put(item: Item, note: str = "") -> str:
    """Puts."""
    ran.append(item)
    return "ok"


@pytest.mark.parametrize("given", [{"mail": "a", "count": 1}, Item(mail="a", count=1)])
async def test_arguments_are_judged_as_they_were_written(given: Any) -> None:
    schema = "{type: object, required: [count], properties: {count: {maximum: 5}}}"
    policy = parse_policy(f"id: p\ntools: {{rules: [{{tool: put, args: {{item: {{schema: {schema}}}}}}}]}}")
    (one,) = guard_tools([put], policy, guard="detectors")
    assert await one.ainvoke({"item": given}) == "ok"
    assert "does not fit its schema" in await one.ainvoke({"item": {"mail": "a", "count": 6}})
    assert ran == [Item(mail="a", count=1)]


@pytest.mark.parametrize("given", [{"mail": MAIL, "count": 1}, Item(mail=MAIL, count=1)])
async def test_a_redacted_call_keeps_the_types_of_its_arguments(given: Any) -> None:
    (one,) = guard_tools([put], parse_policy("id: p\ndetectors: {pii: {entities: [email]}}"), guard="detectors")
    assert await one.ainvoke({"item": given}) == "ok"
    assert ran == [Item(mail="[EMAIL]", count=1)]


async def test_the_input_of_a_tool_of_one_argument_is_redacted() -> None:
    async def shout(text: str) -> str:
        return text.upper()

    plain = Tool("shout", None, "Shouts.", coroutine=shout)
    (one,) = guard_tools([plain], parse_policy("id: p\ndetectors: {pii: {entities: [email]}}"), guard="detectors")
    assert await one.ainvoke(f"write to {MAIL}") == "WRITE TO [EMAIL]"


async def test_what_a_schema_does_not_name_is_judged_too() -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string"}}}
    guard = FakeGuard("XYZZY")

    @tool(args_schema=schema, description="Looks.")
    async def loose(**all: Any) -> str:
        return repr(all)

    policy = "id: p\ncategories: [{id: c, title: t, unsafe_when: u, surfaces: [tool_call]}]"
    (one,) = guard_tools([loose], parse_policy(policy), guard=guard)
    assert "was not called" in await one.ainvoke({"at": "a", "more": "XYZZY"})


RISKY = FakeGuard(lambda said: 0.4)


@pytest.mark.parametrize(("one", "made"), [(look, 2), (commands, 2), (listed, 2), (fails, 1)])
async def test_whatever_a_tool_returns_its_call_takes_of_the_budget(one: Any, made: int) -> None:
    """A call that raised leaves nothing to read its risk from: it counts as one that the guard couldn't judge."""
    (guarded,) = guard_tools([one], parse_policy(BUDGET), guard=RISKY)
    model = ScriptedChatModel([*[[call(one.name, at=str(number))] for number in range(3)], "Done."])
    state = await cyclic(model, ToolNode([guarded], handle_tool_errors=True)).ainvoke(HELLO)
    assert "the risk budget of this run is spent" in results(state)[-1].text
    assert len(ran) == made


async def test_the_budget_is_whole_again_in_the_next_run() -> None:
    (guarded,) = guard_tools([fails], parse_policy(BUDGET), guard=RISKY)
    model = ScriptedChatModel([[call("fails", at="a")], "Sorry.", [call("fails", at="b")], "Sorry."])
    graph = cyclic(model, ToolNode([guarded], handle_tool_errors=True))
    state = await graph.ainvoke(HELLO)
    await graph.ainvoke({"messages": [*state["messages"], HumanMessage("Again.")]})
    assert ran == ["a", "b"]


async def test_other_tools_take_nothing_of_the_budget() -> None:
    (guarded,) = guard_tools([look], parse_policy(BUDGET), guard=RISKY)
    turns: list[Any] = [[call("fails", at="a")], [call("look", at="b")], "Done."]
    graph = cyclic(ScriptedChatModel(turns), ToolNode([guarded, fails], handle_tool_errors=True))
    await graph.ainvoke(HELLO)
    assert ran == ["a", "b"]


SIX = [call("look", at=str(number), id=str(number)) for number in range(6)]


async def test_calls_in_tasks_of_their_own_share_the_budget_and_are_judged_once() -> None:
    guard, recorder = FakeGuard(lambda said: 0.4), MemoryRecorder()
    tools = guard_tools([look], parse_policy(BUDGET), guard=guard, recorder=recorder)
    state = await create_agent(ScriptedChatModel([SIX, "Done."]), tools).ainvoke(HELLO)
    assert sorted(ran) == ["0", "1"]
    assert ["refused" in repr(one.response_metadata) for one in results(state)] == [False] * 2 + [True] * 4
    assert [one.check.surface for one in recorder.decisions].count("tool_call") == 6


async def test_calls_of_a_message_that_are_run_one_after_the_other_share_the_budget() -> None:
    (guarded,) = guard_tools([look], parse_policy(BUDGET), guard=RISKY)

    async def node(state: MessagesState) -> dict[str, Any]:
        said = [one for one in state["messages"] if isinstance(one, ToolMessage)]
        return {"messages": [await guarded.ainvoke({**SIX[len(said)], "type": "tool_call"})]}

    built = StateGraph(MessagesState)
    built.add_node("tools", node)
    built.add_edge(START, "tools")
    built.add_conditional_edges("tools", lambda state: END if len(state["messages"]) == 8 else "tools", ["tools", END])
    await built.compile().ainvoke({"messages": [HumanMessage("Hello"), AIMessage("", tool_calls=SIX)]})
    assert ran == ["0", "1"]


async def test_a_task_that_is_stopped_while_it_judges_stops_no_other() -> None:
    seam = Seam(parse_policy(BUDGET), FakeGuard(lambda said: 0.4, latency_s=0.05))
    batches = Batches(seam, [look])
    messages: list[Any] = [HumanMessage("Hello"), AIMessage("", tool_calls=SIX[:3], id="m")]
    tasks = [
        asyncio.create_task(
            batches.outcome(RunningTask(object(), messages, alone=True), one["id"], partial(lambda asked: asked))
        )
        for one in SIX[:3]
    ]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in found] == [True, True, False]
    assert found[2] is not None
    assert getattr(found[2], "answer", None) is not None  # the third one, after two that took 0.8 of the budget
