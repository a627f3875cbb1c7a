"""What tools say of themselves is judged before a model reads it, and again when it changes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field

from guardmw.errors import BlockedError, PoisonedToolError
from guardmw.policy.schema import Tools
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware, guard_tools
from guardmw_langgraph.descriptions import described
from langgraph_world import FORBIDDEN, REPLACEMENT, policy
from toolbox import call, results


class Weather(BaseModel):
    city: str = Field(description="The town.")
    unit: str = Field("celsius", description="The unit.")


def weather(description: str = "The weather of a town.") -> StructuredTool:
    return StructuredTool.from_function(
        lambda city, unit="celsius": f"{city}: sunny", name="weather", description=description, args_schema=Weather
    )


class SeeingModel(ScriptedChatModel):
    """Notes the tools that it was offered."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        OFFERED.append([getattr(one, "name", "?") for one in tools])
        return super().bind_tools(tools, **kwargs)


OFFERED: list[list[str]] = []


@tool
def look(at: str) -> str:
    """Looks at something."""
    return at


def test_all_that_a_model_reads_is_in_it() -> None:
    text = described(weather())
    assert text.splitlines() == [
        "weather: The weather of a town.",
        "city: The town.",
        "unit: celsius The unit.",
    ]
    anthropic = {"name": "w", "description": "d", "input_schema": {"properties": {"x": {"enum": ["X!", "Y!"]}}}}
    assert described(anthropic) == "w: d\nx: X! Y!"


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {FORBIDDEN: {"type": "string"}}},
        {"type": "object", "properties": {FORBIDDEN: True}},
        {"type": "object", "properties": {"x": {"type": "object", "properties": {FORBIDDEN: {}}}}},
        {"type": "object", "properties": {"x": {"default": {FORBIDDEN: 1}}}},
        {"type": "object", "properties": {"x": {"enum": [[FORBIDDEN]]}}},
        {"type": "object", "properties": {}, "required": [FORBIDDEN]},
    ],
)
async def test_names_in_a_schema_are_judged(parameters: dict[str, Any]) -> None:
    OFFERED.clear()
    named = StructuredTool(name="named", description="Fine.", args_schema=parameters, func=lambda **kwargs: "x")
    middleware = GuardMiddleware(policy(), guard=FakeGuard(FORBIDDEN))
    agent: Any = create_agent(SeeingModel(turns=["Hello."]), [look, named], middleware=[middleware])
    await agent.ainvoke({"messages": [("user", "Hello")]})
    assert OFFERED == [["look"]]


def test_names_stand_there_once() -> None:
    types = [{"type": "string"}, {"type": "null"}]
    schema = {"properties": {"city": {"title": "City", "anyOf": types}, "unit": {"anyOf": types}}, "required": ["city"]}
    assert described({"name": "w", "description": "d", "parameters": schema}) == "w: d\ncity: City\nunit"


_schemas = st.recursive(
    st.text(min_size=1).filter(lambda text: text not in ("object", "string")) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["title", "x", "anyOf"]), inner),
    max_leaves=8,
)


@given(_schemas, st.text(alphabet="abcXYZ ", min_size=4))
def test_no_text_of_a_schema_is_missed(schema: Any, planted: str) -> None:
    text = described({"name": "t", "parameters": {"properties": {"a": {"x": [schema, {"y": {"z": [planted]}}]}}}})
    assert planted.strip() in text


async def test_a_poisoned_tool_is_not_offered() -> None:
    OFFERED.clear()
    middleware = GuardMiddleware(policy(), guard=FakeGuard(FORBIDDEN))
    agent: Any = create_agent(SeeingModel(turns=["Hello."]), [look, weather(FORBIDDEN)], middleware=[middleware])
    await agent.ainvoke({"messages": [("user", "Hello")]})
    assert OFFERED == [["look"]]


async def test_the_policy_may_refuse_to_run_with_it() -> None:
    middleware = GuardMiddleware(policy(tools=Tools(descriptions="refuse")), guard=FakeGuard(FORBIDDEN))
    agent: Any = create_agent(ScriptedChatModel(["Hello."]), [weather(FORBIDDEN)], middleware=[middleware])
    with pytest.raises(PoisonedToolError, match="'weather', because of its description: forbidden"):
        await agent.ainvoke({"messages": [("user", "Hello")]})


@pytest.mark.parametrize("changes", [{"tools": Tools(descriptions="flag")}, {"mode": "shadow"}])
async def test_or_only_record_it(changes: Any) -> None:
    OFFERED.clear()
    middleware = GuardMiddleware(policy(**changes), guard=FakeGuard(FORBIDDEN))
    agent: Any = create_agent(SeeingModel(turns=["Hello."]), [weather(FORBIDDEN)], middleware=[middleware])
    await agent.ainvoke({"messages": [("user", "Hello")]})
    assert OFFERED == [["weather"]]


async def test_it_is_judged_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    guard, changing = FakeGuard(FORBIDDEN), weather()
    middleware = GuardMiddleware(policy(), guard=guard)
    turns: list[Any] = [[call("weather", city="Rome")], "Sunny.", [call("weather", city="Rome")], "Done."]
    agent: Any = create_agent(ScriptedChatModel(turns), [changing], middleware=[middleware])
    state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert results(state)[0].text == "Rome: sunny"
    assert sum(one.origin == "description" for one in guard.checks) == 1
    changing.description = f"The weather. {FORBIDDEN}"
    with caplog.at_level(logging.WARNING, "guardmw.tools"):
        state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert "its description may not pass" in results(state)[0].text
    assert "has changed" in caplog.text


async def test_a_failing_guard_is_asked_again() -> None:
    guard = FakeGuard(FORBIDDEN, fail="error")
    (one,) = guard_tools([look], policy(), guard=guard)
    assert "was not called" in await one.ainvoke({"at": "hats"})
    guard.fail = None
    assert await one.ainvoke({"at": "hats"}) == "hats"


async def test_guarded_tools_know_their_own_description() -> None:
    (one,) = guard_tools([weather(FORBIDDEN)], policy(), guard=FakeGuard(FORBIDDEN))
    assert "'weather' was not called" in await one.ainvoke({"city": "Rome"})
    message = await one.ainvoke({"name": "weather", "args": {"city": "Rome"}, "id": "1", "type": "tool_call"})
    assert (message.tool_call_id, message.status) == ("1", "error")


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_model_that_keeps_calling_it_is_stopped(guarded: bool) -> None:
    model = ScriptedChatModel([*[[call("weather", city=str(place))] for place in range(5)], "Done."])
    guard = FakeGuard(FORBIDDEN)
    if guarded:
        agent: Any = create_agent(model, guard_tools([weather(FORBIDDEN)], policy(), guard=guard))
        with pytest.raises(BlockedError, match="'weather' was called again, and its description may not pass"):
            await agent.ainvoke({"messages": [("user", "Hello")]})
    else:
        agent = create_agent(model, [weather(FORBIDDEN)], middleware=[GuardMiddleware(policy(), guard=guard)])
        state = await agent.ainvoke({"messages": [("user", "Hello")]})
        assert len(results(state)) == 3
        assert state["messages"][-1].text == REPLACEMENT
    assert model.calls == 3
