"""What tools write to the graph's streams while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware, guard_tools
from langgraph_world import FORBIDDEN, MAIL, policy
from toolbox import call


class Note:
    """An object whose text nobody reads who only looks at what it is printed as."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "a note"


SAID: dict[str, list[Any]] = {
    "clean": ["Looking ", "at hats. ", {"done": 0.5}, 3, "All is", " well."],
    "split": ["Looking at hats, and then comes ", FORBIDDEN[:2], FORBIDDEN[2:], " and more.", {"after": "it"}],
    "mail": ["Write to jane", ".doe@exam", "ple.com, please, and be quick about it."],
    "dict": [{"note": "fine"}, {"note": f"say {FORBIDDEN}"}, {"note": "later"}],
    "dict mail": [{"note": f"ask {MAIL}"}],
    "object": [Note(f"say {FORBIDDEN}"), {"note": Note("fine")}],
    "dict lines": [{"note": f"ask\n{MAIL}"}],
    "dict split": [{"note": FORBIDDEN[:2]}, {"note": FORBIDDEN[2:]}],
}
OPEN = FakeGuard(lambda text: float(FORBIDDEN in text.replace('{"note": "', "").replace('"}', "").replace("\n", "")))


def _say(write: Any, what: str) -> str:
    for one in SAID[what]:
        write(one)
    return "done"


@tool
async def by_runtime(what: str, runtime: ToolRuntime) -> str:
    """Writes."""
    return _say(runtime.stream_writer, what)


@tool
async def by_function(what: str) -> str:
    """Writes."""
    return _say(get_stream_writer(), what)


@tool
def in_thread(what: str) -> str:
    """Writes in a thread."""
    return _say(get_stream_writer(), what)


@tool
async def by_config(what: str, config: RunnableConfig) -> str:
    """Writes."""
    return _say(config["configurable"]["__pregel_runtime"].stream_writer, what)


@tool
async def in_task(what: str) -> str:
    """Writes in a task of its own, and fails."""
    await asyncio.create_task(asyncio.to_thread(_say, get_stream_writer(), what))
    raise ValueError("failed")


@tool
async def by_delta(what: str, runtime: ToolRuntime) -> str:
    """Writes to the stream of tools."""
    return _say(runtime.emit_output_delta, what)


TOOLS: list[BaseTool] = [by_runtime, by_function, in_thread, by_config, in_task, by_delta]


def agent(one: BaseTool, what: str) -> Any:
    middleware = GuardMiddleware(policy(), guard=FakeGuard(OPEN.unsafe))
    return create_agent(ScriptedChatModel([[call(one.name, what=what)], "Done."]), [one], middleware=[middleware])


def node(one: BaseTool, what: str) -> Any:
    graph = StateGraph(MessagesState)
    guarded = guard_tools([one], policy(), guard=FakeGuard(OPEN.unsafe))
    graph.add_node("tools", ToolNode(guarded, handle_tool_errors=True))
    graph.add_edge(START, "tools")
    return graph.compile()


def _custom(items: Iterable[Any]) -> list[Any]:
    return [item["delta"] if mode == "tools" else item for mode, item in items if mode == "custom" or "delta" in item]


def _given(one: BaseTool, what: str) -> Any:
    asking = AIMessage("", tool_calls=[{"name": one.name, "args": {"what": what}, "id": "1"}])
    return {"messages": [HumanMessage("Hello"), asking]}


async def written(build: Any, one: BaseTool, what: str) -> list[Any]:
    """What a reader of the streams "custom" and "tools" sees."""
    given = _given(one, what) if build is node else {"messages": [("user", "Hello")]}
    items: list[Any] = []
    with suppress(ValueError):  # of `in_task`
        async for item in build(one, what).astream(given, stream_mode=["custom", "tools"]):
            items.append(item)  # those before the failure count
    return _custom(items)


ALL = [pytest.param(build, one, id=f"{build.__name__} {one.name}") for build in (agent, node) for one in TOOLS]


@pytest.mark.parametrize(("build", "one"), ALL)
async def test_clean_output_comes_as_it_was_written(build: Any, one: BaseTool) -> None:
    shown = await written(build, one, "clean")
    assert "".join(item for item in shown if isinstance(item, str)) == "Looking at hats. All is well."
    assert [item for item in shown if not isinstance(item, str)] == [{"done": 0.5}, 3]
    assert "".join(shown[: shown.index({"done": 0.5})]) == "Looking at hats. "


@pytest.mark.parametrize(("build", "one"), ALL)
async def test_nothing_unjudged_is_seen(build: Any, one: BaseTool) -> None:
    shown = await written(build, one, "split")
    assert FORBIDDEN not in "".join(map(str, shown))
    assert f"What {one.name!r} writes is withheld from here on" in shown[-1]


@pytest.mark.parametrize("build", [agent, node])
async def test_what_is_split_over_texts_is_redacted(build: Any) -> None:
    shown = await written(build, by_runtime, "mail")
    assert "".join(shown) == "Write to [EMAIL], please, and be quick about it."


@pytest.mark.parametrize("build", [agent, node])
async def test_other_payloads_are_judged_whole_and_after_those_before(build: Any) -> None:
    first, last = await written(build, by_runtime, "dict")
    assert first == {"note": "fine"}
    assert "is withheld from here on" in last
    assert await written(build, by_runtime, "dict mail") == [{"note": "ask [EMAIL]"}]
    first, last = await written(build, by_runtime, "dict split")
    assert first == {"note": FORBIDDEN[:2]}
    assert "is withheld from here on" in last


@pytest.mark.parametrize("build", [agent, node])
async def test_what_is_emitted_is_what_was_judged(build: Any) -> None:
    """An object goes out as the text that it was judged as, never as itself."""
    assert await written(build, by_runtime, "object") == ["a note", "{'note': a note}"]
    assert await written(build, by_runtime, "dict lines") == [{"note": "ask\n[EMAIL]"}]


@pytest.mark.parametrize("build", [agent, node])
async def test_the_synchronous_way_is_judged(build: Any, blocking_allowed: None) -> None:
    given = _given(in_thread, "split") if build is node else {"messages": [("user", "Hello")]}
    app = build(in_thread, "split")
    items = await asyncio.to_thread(lambda: list(app.stream(given, stream_mode=["custom", "tools"])))
    shown = _custom(items)
    assert FORBIDDEN not in "".join(map(str, shown))
    assert "is withheld from here on" in shown[-1]


async def test_output_comes_while_the_tool_runs() -> None:
    seen = asyncio.Event()

    @tool
    async def waits(what: str, runtime: ToolRuntime) -> str:
        """Writes, and waits until somebody has read it."""
        runtime.stream_writer("A first sentence that is long enough. ")
        await asyncio.wait_for(seen.wait(), 20)
        return "done"

    async for mode, _ in agent(waits, "").astream({"messages": [("user", "Hi")]}, stream_mode=["custom", "updates"]):
        if mode == "custom":
            seen.set()
    assert seen.is_set()
