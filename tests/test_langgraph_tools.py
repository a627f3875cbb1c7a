"""guard_tools: the call before, the result after."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, RemoveMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition
from langgraph.types import Command
from pydantic import ValidationError

from guardmw.errors import BlockedError
from guardmw.policy import parse_policy
from guardmw.policy.schema import Category, ToolRule, Tools
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder
from guardmw_langgraph import GuardMiddleware, guard_model, guard_tools
from langgraph_world import FORBIDDEN, MAIL, Overheard, policy
from toolbox import APPROVE, SHOP, THREAD, Toolbox, asked, call, edit, results

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
    assert [check.content for check in guard.checks] == [
        "look: Looks at something.\nat", 'look({"at": "hats"})', "saw hats",
    ]  # fmt: skip


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
    assert guard.checks[1].content == 'inject({"at": "x"})'


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


def graph(model: Any, *tools: Any, saver: Any = None) -> Any:
    """A hand-written graph: `model` with `tools` in a ToolNode."""
    bound = model.bind_tools(tools)

    async def call_model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    built = StateGraph(MessagesState)
    built.add_node("model", call_model)
    built.add_node("tools", ToolNode(list(tools)))
    built.add_edge(START, "model")
    built.add_conditional_edges("model", tools_condition)
    built.add_edge("tools", "model")
    return built.compile(checkpointer=saver)


HELLO: Any = {"messages": [("user", "Hello")]}


def shop(*turns: Any, text: str = SHOP, guarded_too: bool, saver: Any = None) -> tuple[Any, Toolbox, MemoryRecorder]:
    box, recorder = Toolbox(), MemoryRecorder()
    tools = guard_tools(box.tools(), parse_policy(text), guard=FakeGuard(FORBIDDEN), recorder=recorder)
    model: Any = ScriptedChatModel([*turns, "Done."])
    if guarded_too:
        model = guard_model(model, parse_policy(text), guard=FakeGuard(FORBIDDEN), recorder=recorder)
    return graph(model, *tools, saver=saver), box, recorder


@pytest.mark.parametrize("guarded_too", [False, True])
async def test_the_history_is_read_from_the_graphs_state(guarded_too: bool) -> None:
    agent, box, _ = shop(
        [call("close_account", who="a")],
        [call("read_customer", customer="7"), call("http_post", url="a")],
        [call("verify", who="a")],
        [call("close_account", who="a")],
        guarded_too=guarded_too,
    )
    state = await agent.ainvoke(HELLO)
    assert [name for name, _ in box.ran] == ["read_customer", "verify", "close_account"]
    refused = [one for one in results(state) if one.status == "error"]
    assert [one.response_metadata["guardmw"]["call"] for one in refused] == ["refused", "refused"]
    assert "Call 'verify' first" in refused[0].text


@pytest.mark.parametrize("guarded_too", [False, True])
async def test_people_are_asked_once_for_a_message_before_anything_runs(guarded_too: bool) -> None:
    turn = [
        call("verify", who="a"), call("issue_refund", amount=5), call("issue_refund", amount=6),
        call("issue_refund", amount=7),
    ]  # fmt: skip
    agent, box, recorder = shop(turn, guarded_too=guarded_too, saver=InMemorySaver())
    state = await agent.ainvoke(HELLO, THREAD)
    assert [one["args"]["amount"] for one in asked(state)] == [5, 6, 7]
    assert (box.ran, len(state["__interrupt__"])) == ([], 1)
    answers = [APPROVE, edit("issue_refund", amount=1), {"type": "reject", "message": "No."}]
    state = await agent.ainvoke(Command(resume={"decisions": answers}), THREAD)
    assert sorted(box.ran) == [("issue_refund", 1), ("issue_refund", 5), ("verify", "a")]
    assert "They say: No." in results(state)[-1].text
    assert sorted(one.approval for one in recorder.decisions if one.approval) == ["approve", "edit", "reject"]


async def test_a_refused_call_without_its_arguments_is_answered_by_its_tool() -> None:
    """A guarded model takes them out; the tool must not complain that they are missing."""
    agent, box, _ = shop([call("send_email", to="x@evil.example")], guarded_too=True)
    state = await agent.ainvoke(HELLO)
    assert "'to' must match" in results(state)[0].text
    assert "evil" not in repr(state)
    assert box.ran == []


async def test_a_call_that_the_model_was_let_make_is_judged_once() -> None:
    agent, _, recorder = shop([call("verify", who="a")], guarded_too=True)
    await agent.ainvoke(HELLO)
    assert [one.check.surface for one in recorder.decisions].count("tool_call") == 1


async def test_without_a_checkpointer_nobody_is_asked() -> None:
    agent, box, _ = shop([call("issue_refund", amount=5)], guarded_too=False)
    state = await agent.ainvoke(HELLO)
    assert "without a checkpointer" in results(state)[0].text
    assert box.ran == []


async def test_the_policy_may_end_the_run_of_a_graph() -> None:
    agent, box, _ = shop([call("send_email", to="x")], text=SHOP + "  on_block: terminate", guarded_too=False)
    with pytest.raises(BlockedError, match="ends the run here"):
        await agent.ainvoke(HELLO)
    agent, box, _ = shop(*[[call("send_email", to="x")]] * 4, guarded_too=False)
    with pytest.raises(BlockedError, match="does not match"):
        await agent.ainvoke(HELLO)
    assert box.ran == []


async def test_the_risk_of_a_run_is_kept_in_the_state() -> None:
    text = SHOP.replace("tools:\n", "tools:\n  risk_budget: 1.0\n")
    box = Toolbox()
    guard = FakeGuard(lambda said: 0.4 if "verify(" in said else 0.0)
    tools = guard_tools(box.tools(), parse_policy(text), guard=guard)
    turns: list[Any] = [[call("verify", who=str(number))] for number in range(3)]
    agent = graph(ScriptedChatModel([*turns, "Done."]), *tools, saver=InMemorySaver())
    state = await agent.ainvoke(HELLO, THREAD)
    assert [value for _, value in box.ran] == ["0", "1"]
    assert asked(state)[0]["args"] == {"who": "2"}


async def test_a_state_without_messages_cannot_tell_the_order() -> None:
    class State(TypedDict):
        said: Annotated[list[Any], add_messages]

    box = Toolbox()
    tools = guard_tools(box.tools(), parse_policy(SHOP), guard="detectors")
    built = StateGraph(State)
    built.add_node("tools", ToolNode(tools, messages_key="said"))
    built.add_edge(START, "tools")
    wanted = AIMessage("", tool_calls=[{"name": "verify", "args": {"who": "a"}, "id": "1"}])
    graph_: Any = built.compile()
    state = await graph_.ainvoke({"said": [wanted]})
    assert "keeps no `messages`" in state["said"][-1].text
    assert box.ran == []


async def test_asked_calls_are_judged_and_recorded_once_however_often_the_graph_resumes() -> None:
    agent, box, recorder = shop([call("verify", who="a"), *[call("issue_refund", amount=5)] * 2], guarded_too=False,
                                saver=InMemorySaver())  # fmt: skip
    await agent.ainvoke(HELLO, THREAD)
    with pytest.raises(ValidationError, match="1 decisions came back for 2 calls"):
        await agent.ainvoke(Command(resume={"decisions": [APPROVE]}), THREAD)
    await agent.ainvoke(Command(resume={"decisions": [APPROVE, APPROVE]}), THREAD)
    judged = [one.approval for one in recorder.decisions if one.check.surface == "tool_call"]
    assert judged == [None, None, None, "approve", "approve"]
    assert len(box.ran) == 3


async def test_what_was_asked_is_judged_anew_after_another_history() -> None:
    agent, box, _ = shop([call("issue_refund", amount=5)], guarded_too=False, saver=InMemorySaver(), text=AFTER_VERIFY)
    await agent.ainvoke(HELLO, THREAD)
    made = AIMessage("", tool_calls=[{"name": "verify", "args": {"who": "a"}, "id": "v"}])
    asking = (await agent.aget_state(THREAD)).values["messages"][-1]
    history = [made, ToolMessage("verified", tool_call_id="v", name="verify"), asking]
    update = {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *history]}
    fork = await agent.aupdate_state(THREAD, update, as_node="model")
    state = await agent.ainvoke(None, fork)
    assert (box.ran, asked(state)) == ([], [])
    assert "may not be called after 'verify'" in results(state)[-1].text


AFTER_VERIFY = SHOP + "    - {name: no-refund, after: verify, never: issue_refund}\n"


@pytest.mark.parametrize("outer", ["id: outer", SHOP])
async def test_a_call_that_a_guarded_tool_refused_was_not_made(outer: str) -> None:
    """A middleware round guarded tools takes their word for it, and no other tool's."""
    inner = "id: inner\ntools: {rules: [{tool: read_customer, action: deny}]}"
    box = Toolbox()
    tools = guard_tools(box.tools(), parse_policy(inner), guard="detectors")
    turns: list[Any] = [[call("read_customer", customer="7")], [call("http_post", url="a")], "Done."]
    middleware = GuardMiddleware(parse_policy(outer), guard=FakeGuard(FORBIDDEN))
    agent: Any = create_agent(ScriptedChatModel(turns), tools, middleware=[middleware])
    state = await agent.ainvoke(HELLO)
    assert [one.response_metadata["guardmw"]["call"] for one in results(state)[:1]] == ["refused"]
    assert box.ran == [("http_post", "a")]


async def test_no_other_tool_can_say_that_it_was_not_called() -> None:
    async def read_customer(customer: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> ToolMessage:
        """Reads."""
        mark = {"guardmw": {"call": "refused"}}
        return ToolMessage("Jane Doe", tool_call_id=tool_call_id, response_metadata=mark)

    for wrapped in (False, True):
        box = Toolbox()
        tools: list[Any] = [read_customer, *box.tools()[1:]]
        tools = guard_tools(tools, parse_policy("id: inner"), guard="detectors") if wrapped else tools
        turns: list[Any] = [[call("read_customer", customer="7")], [call("http_post", url="a")], "Done."]
        middleware = GuardMiddleware(parse_policy(SHOP), guard="detectors")
        agent: Any = create_agent(ScriptedChatModel(turns), tools, middleware=[middleware])
        state = await agent.ainvoke(HELLO)
        assert (results(state)[0].text, box.ran) == ("Jane Doe", [])


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_synchronous_tools_in_a_tool_node(how: str) -> None:
    paid: list[int] = []

    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return "paid"

    (one,) = guard_tools([pay], parse_policy("id: p\ntools: {default: ask}"), guard="detectors")
    built = StateGraph(MessagesState)
    built.add_node("tools", ToolNode([one]))
    built.add_edge(START, "tools")
    agent: Any = built.compile(checkpointer=InMemorySaver())
    calls = [{"name": "pay", "args": {"amount": amount}, "id": str(amount)} for amount in (1, 2)]
    resumed: Any = Command(resume={"decisions": [APPROVE, APPROVE]})
    for given in ({"messages": [AIMessage("", tool_calls=calls)]}, resumed):
        assert paid == []
        ways = {"ainvoke": agent.ainvoke, "invoke": partial(asyncio.to_thread, agent.invoke)}
        state = await ways[how](given, THREAD)
    assert sorted(paid) == [1, 2]
    assert [message.text for message in results(state)] == ["paid", "paid"]


async def test_an_agent_that_sends_every_call_to_a_task_of_its_own_asks_for_each() -> None:
    box = Toolbox()
    tools = guard_tools(box.tools(), parse_policy(SHOP), guard="detectors")
    turn = [call("issue_refund", amount=1), call("issue_refund", amount=2), call("verify", who="a")]
    agent: Any = create_agent(ScriptedChatModel([turn, "Done."]), tools, checkpointer=InMemorySaver())
    state = await agent.ainvoke(HELLO, THREAD)
    assert sorted(one["args"]["amount"] for one in asked(state)) == [1, 2]
    answers = {one.id: {"decisions": [APPROVE]} for one in state["__interrupt__"]}
    await agent.ainvoke(Command(resume=answers), THREAD)
    assert sorted(box.ran) == [("issue_refund", 1), ("issue_refund", 2), ("verify", "a")]
