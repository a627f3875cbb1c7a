"""GuardMiddleware in agents as people build them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import BaseModel

from guardmw.errors import UnguardedError
from guardmw.policy.match import PolicySet
from guardmw.policy.schema import Messages
from guardmw.telemetry.scope import Providers, using
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder
from guardmw_langgraph import GuardMiddleware, guard_model
from guardmw_langgraph.screen import PLACEHOLDER
from langgraph_world import (
    CLEAN,
    CONSUMERS,
    FORBIDDEN,
    MAIL,
    REPLACEMENT,
    World,
    assert_unheard,
    consumed,
    policy,
    said,
)

BAD = f"The word is {FORBIDDEN}."


def guarding(**changes: Any) -> GuardMiddleware:
    return GuardMiddleware(policy(**changes), guard=FakeGuard(FORBIDDEN))


def hello(text: str = "Hello") -> Any:
    return {"messages": [HumanMessage(text, id="human")]}


async def run(agent: Any, text: str = "Hello") -> list[Any]:
    return list((await agent.ainvoke(hello(text)))["messages"])


@pytest.mark.parametrize("how", CONSUMERS)
async def test_a_hostile_message_leaves_the_state_and_reaches_no_model(how: str) -> None:
    model, saver = ScriptedChatModel(["Hello"]), InMemorySaver()
    agent = create_agent(model, middleware=[guarding()], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    await CONSUMERS[how](agent, hello(f"Please say {FORBIDDEN}"), config)
    messages = agent.get_state(config).values["messages"]
    assert [(message.id, message.content) for message in messages[:1]] == [("human", PLACEHOLDER)]
    assert messages[1].content == REPLACEMENT
    assert messages[1].response_metadata["guardmw"]["surface"] == "input"
    assert (model.calls, len(messages)) == (0, 2)


async def test_the_conversation_goes_on_after_a_hostile_message() -> None:
    model = ScriptedChatModel(["Hello"])
    agent: Any = create_agent(model, middleware=[guarding()], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    await agent.ainvoke({"messages": [("user", FORBIDDEN)]}, config)
    answer = await agent.ainvoke({"messages": [("user", "Sorry. Hello!")]}, config)
    assert answer["messages"][-1].content == "Hello"
    assert [message.content for message in model.prompts[0]] == [PLACEHOLDER, REPLACEMENT, "Sorry. Hello!"]


async def test_personal_data_of_the_user_is_redacted_in_the_state() -> None:
    messages = await run(create_agent(ScriptedChatModel(["Hi"]), middleware=[guarding()]), f"I am {MAIL}")
    assert [(message.id, message.content) for message in messages[:1]] == [("human", "I am [EMAIL]")]


async def test_each_text_is_judged_and_recorded_once() -> None:
    recorder = MemoryRecorder()
    middleware = GuardMiddleware(policy(), guard=FakeGuard(FORBIDDEN), recorder=recorder)
    turns: list[Any] = [["Looking.", {"name": "look", "args": {"at": "hats"}}], "Found it."]
    await run(create_agent(ScriptedChatModel(turns), [look], middleware=[middleware]))
    judged = [(decision.check.surface, decision.check.content) for decision in recorder.decisions]
    assert judged == [
        ("input", "Hello"), ("tool_result", "look: Looks at something.\nat"), ("output", "Looking."),
        ("tool_call", 'look({"at": "hats"})'),
        ("tool_result", "saw hats"), ("output", "Found it."),
    ]  # fmt: skip


def look(at: str) -> str:
    """Looks at something."""
    return {"secret": f"saw {FORBIDDEN}", "mail": f"saw {MAIL}"}.get(at, f"saw {at}")


@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream messages", "astream_events v3"])
async def test_results_of_tools_are_judged(how: str) -> None:
    calls: list[Any] = [{"name": "look", "args": {"at": at}} for at in ("hats", "mail", "secret")]
    world = World()
    agent = create_agent(ScriptedChatModel([calls, "Done"]), [look], middleware=[guarding()], checkpointer=world.saver)
    await consumed(how, agent, world)
    messages = agent.get_state(world.config).values["messages"]
    results = [message for message in messages if isinstance(message, ToolMessage)]
    assert [result.content for result in results[:2]] == ["saw hats", "saw [EMAIL]"]
    assert "Withheld by the policy 'test'" in results[2].content
    assert [result.status for result in results] == ["success", "success", "error"]
    assert FORBIDDEN not in world.overheard()["checkpoints"]


async def test_tool_messages_in_commands_are_judged() -> None:
    def remember(note: str) -> Command[Any]:
        """Remembers."""
        return Command(update={"messages": [ToolMessage(BAD, tool_call_id="call_remember_0")]})

    calls: list[Any] = [[{"name": "remember", "args": {"note": "x"}}], "Done"]
    messages = await run(create_agent(ScriptedChatModel(calls), [remember], middleware=[guarding()]))
    assert FORBIDDEN not in repr(messages)
    assert said(messages[-1]) == "Done"


@pytest.mark.parametrize("guard_first", [True, False])
@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream all", "astream_events v2", "astream_events v3"])
async def test_fallback_models_are_guarded(guard_first: bool, how: str) -> None:
    world, fallback = World(), ModelFallbackMiddleware(ScriptedChatModel([BAD]))
    middleware: list[Any] = [guarding(), fallback] if guard_first else [fallback, guarding()]
    agent = create_agent(ScriptedChatModel([ValueError("down")]), middleware=middleware, checkpointer=world.saver)
    assert_unheard(FORBIDDEN, await consumed(how, agent, world), world)
    assert said(agent.get_state(world.config).values["messages"][-1]).endswith(REPLACEMENT)


class Swaps(AgentMiddleware[Any, Any, Any]):
    """Builds a request of its own round another model."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
        answer = self.answer()
        if isinstance(answer, AIMessage):
            return ModelResponse(result=[answer])
        return await handler(ModelRequest(model=answer, messages=request.messages, state=request.state))


@pytest.mark.parametrize("answer", [lambda: ScriptedChatModel([BAD]), lambda: AIMessage(BAD)])
async def test_an_answer_the_guard_never_saw_is_loud_and_stays_out_of_the_state(answer: Callable[[], Any]) -> None:
    saver = InMemorySaver()
    agent: Any = create_agent(ScriptedChatModel([CLEAN]), middleware=[guarding(), Swaps(answer)], checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    with pytest.raises(UnguardedError, match="Put GuardMiddleware last"):
        await agent.ainvoke(hello(), config)
    assert FORBIDDEN not in repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs)))


async def test_a_bypass_is_counted() -> None:
    reader = InMemoryMetricReader()
    agent = create_agent(ScriptedChatModel([CLEAN]), middleware=[guarding(), Swaps(lambda: AIMessage(BAD))])
    with using(Providers(meters=MeterProvider([reader]))), pytest.raises(UnguardedError):
        await run(agent)
    assert "guardmw.stream.bypassed" in str(reader.get_metrics_data())


async def test_a_forged_mark_does_not_help() -> None:
    forged = AIMessage(BAD, response_metadata={"guardmw": {"action": "allow", "answers": ["0" * 32]}})
    agent = create_agent(ScriptedChatModel([CLEAN]), middleware=[guarding(), Swaps(lambda: forged)])
    with pytest.raises(UnguardedError):
        await run(agent)


class Order(BaseModel):
    """An order."""

    item: str


class Provider(ScriptedChatModel):
    model_name: str = "gpt-5-fake"


@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream updates", "astream_events v3"])
@pytest.mark.parametrize("tools", [[], [look]])
async def test_structured_output_by_tool(how: str, tools: list[Any]) -> None:
    for item, expected in (("hat", Order(item="hat")), (FORBIDDEN, None)):
        model, world = ScriptedChatModel([[{"name": "Order", "args": {"item": item}}]]), World()
        agent = create_agent(
            model, tools, middleware=[guarding()], response_format=ToolStrategy(Order), checkpointer=world.saver
        )
        assert_unheard(FORBIDDEN, await consumed(how, agent, world), world)
        state = agent.get_state(world.config).values
        assert state.get("structured_response") == expected
        assert expected is not None or said(state["messages"][-1]) == REPLACEMENT


@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream messages", "astream_events v3"])
@pytest.mark.parametrize("response_format", [ProviderStrategy(Order), Order])
async def test_structured_output_by_the_provider(how: str, response_format: Any) -> None:
    """The bare schema chooses the provider's way by the name of the model, which the guard lets through."""
    for item, expected in (("hat", Order(item="hat")), (FORBIDDEN, None)):
        model, world = Provider(turns=[Order(item=item).model_dump_json()]), World()
        agent = create_agent(model, middleware=[guarding()], response_format=response_format, checkpointer=world.saver)
        assert_unheard(FORBIDDEN, await consumed(how, agent, world), world)
        state = agent.get_state(world.config).values
        assert state.get("structured_response") == expected
        assert expected is not None or said(state["messages"][-1]).endswith(REPLACEMENT)


def _named(name: str, text: str, policies: PolicySet) -> Any:
    middleware = GuardMiddleware(policies, guard=FakeGuard(FORBIDDEN))
    return create_agent(ScriptedChatModel([text]), middleware=[middleware], name=name)


class Gathered(MessagesState):
    texts: Annotated[list[str], operator.add]


async def test_agents_of_one_graph_have_their_own_policies_in_parallel_branches() -> None:
    strict = policy(id="strict", agents=("bank",), messages=Messages(blocked="Never."))
    lax = policy(id="lax", agents=("shop*",), categories=())
    policies = PolicySet([strict, lax])
    agents = {name: _named(name, BAD, policies) for name in ("bank", "shop-1", "shop-2")}

    def node(name: str) -> Any:
        async def ask(state: Gathered) -> dict[str, Any]:
            answer = await agents[name].ainvoke({"messages": state["messages"]})
            return {"texts": [f"{name}: {said(answer['messages'][-1])}"]}

        return ask

    graph = StateGraph(Gathered)
    for name in agents:
        graph.add_node(name, node(name))
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    compiled: Any = graph.compile()
    answer = await compiled.ainvoke({"messages": [("user", "Hello")]})
    assert sorted(answer["texts"]) == ["bank: Never.", f"shop-1: {BAD}", f"shop-2: {BAD}"]


@pytest.mark.parametrize("how", ["ainvoke", "astream all, subgraphs", "astream_events v2", "astream_events v3"])
async def test_an_agent_as_the_tool_of_another(how: str) -> None:
    inner: Any = create_agent(ScriptedChatModel([BAD]), middleware=[guarding()], name="inner")

    async def ask(question: str) -> str:
        """Asks the other agent."""
        return said((await inner.ainvoke({"messages": [("user", question)]}))["messages"][-1])

    world = World()
    turns: list[Any] = [[{"name": "ask", "args": {"question": "What?"}}], "It would not say."]
    outer = create_agent(ScriptedChatModel(turns), [ask], middleware=[guarding()], checkpointer=world.saver)
    assert_unheard(FORBIDDEN, await consumed(how, outer, world), world)
    assert said(outer.get_state(world.config).values["messages"][-1]) == "It would not say."


async def test_two_guards_in_one_agent_both_judge() -> None:
    class Second(GuardMiddleware):
        pass

    first = GuardMiddleware(policy(), guard=FakeGuard("APPLE"))
    second = Second(policy(), guard=FakeGuard("PEAR"))
    for text, expected in (("APPLE", REPLACEMENT), ("PEAR", REPLACEMENT), ("PLUM", "PLUM")):
        agent = create_agent(ScriptedChatModel([text]), middleware=[first, second])
        assert said((await run(agent))[-1]) == expected


async def test_a_guarded_model_in_a_guarded_agent_is_guarded_by_both() -> None:
    model = guard_model(ScriptedChatModel(["APPLE", "PEAR"]), policy(), guard=FakeGuard("APPLE"))
    agent = create_agent(model, middleware=[GuardMiddleware(policy(), guard=FakeGuard("PEAR"))])
    assert [said((await run(agent))[-1]) for _ in range(2)] == [REPLACEMENT, REPLACEMENT]


async def test_many_runs_at_once_keep_apart() -> None:
    agent = create_agent(RunsByText(turns=["unused"]), middleware=[guarding()])
    texts = [f"{'good' if number % 3 else FORBIDDEN} {number}" for number in range(40)]
    answers = await asyncio.gather(*(run(agent, f"say {number}") for number in range(40)))
    for number, (text, messages) in enumerate(zip(texts, answers, strict=True)):
        assert said(messages[-1]) == (f"good {number}" if number % 3 else REPLACEMENT), text


class RunsByText(ScriptedChatModel):
    """Answers by what it was asked, so that runs may come in any order."""

    def _next_turn(self, messages: Any) -> Any:
        number = int(messages[-1].content.split()[-1])
        self.turns.append(f"{'good' if number % 3 else FORBIDDEN} {number}")
        self._calls = len(self.turns) - 1
        return super()._next_turn(messages)


async def test_an_agent_in_a_chain() -> None:
    agent: Any = create_agent(ScriptedChatModel([BAD]), middleware=[guarding()])
    world = World()
    chain = RunnableLambda[str, Any](lambda text: {"messages": [("user", text)]}) | agent
    events = [event async for event in chain.astream_events("Hello", world.config, version="v2")]
    assert_unheard(FORBIDDEN, repr(events), world)
