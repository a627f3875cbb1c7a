"""The fakes do what their documentation says: tests of other people stand on them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk

from guardmw import testing
from guardmw.errors import GuardConnectionError
from guardmw.guard.base import Guard
from guardmw.policy.schema import Category, Policy
from guardmw.testing import FakeGuard, ScriptedChatModel, collect, deltas, paced
from guardmw.types import Check

POLICY = Policy(
    id="p",
    categories=(
        Category(id="a", title="A", unsafe_when="a"),
        Category(id="b", title="B", unsafe_when="b", surfaces=("output",)),
    ),
)


@pytest.mark.parametrize(
    ("unsafe", "probability"),
    [("bad", 0.99), ("BAD", 0.01), (re.compile("b.d"), 0.99), (len, 9.0), (None, 0.01), (lambda _: 0.4, 0.4)],
)
async def test_a_fake_guard_answers_as_told(unsafe: Any, probability: float) -> None:
    guard = FakeGuard(unsafe)
    verdict = await guard.check(Check("output", "it is bad"), POLICY)
    assert [(finding.category, finding.probability) for finding in verdict.findings] == [
        ("a", probability),
        ("b", 0.01),
    ]
    assert (verdict.guard, verdict.guard_version) == (guard.name, guard.version)
    assert [check.content for check in guard.checks] == ["it is bad"]
    assert len((await guard.check(Check("input", "x"), POLICY)).findings) == 1
    assert isinstance(guard, Guard)


async def test_a_fake_guard_fails_as_told() -> None:
    guard = FakeGuard(fail="error", fail_after=1)
    await guard.check(Check("output", "x"), POLICY)
    with pytest.raises(GuardConnectionError, match="told to fail"):
        await guard.check(Check("output", "x"), POLICY)
    guard.fail = "hang"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(guard.check(Check("output", "x"), POLICY), 0.01)
    guard.fail = "garbage"
    assert isinstance(await guard.check(Check("output", "x"), POLICY), str)
    assert len(guard.checks) == 4
    await guard.aclose()
    assert guard.closed


async def test_a_fake_guard_takes_its_time() -> None:
    began_s = asyncio.get_running_loop().time()
    await FakeGuard(latency_s=0.02).check(Check("output", "x"), POLICY)
    assert asyncio.get_running_loop().time() - began_s >= 0.019


@given(st.text())
def test_a_scripted_text_is_streamed_whole(text: str) -> None:
    model = ScriptedChatModel([text, text, text])
    assert model.invoke("?").text == text
    assert "".join(chunk.text for chunk in model.stream("?")) == text
    assert asyncio.run(_streamed(model)) == text


async def _streamed(model: ScriptedChatModel) -> str:
    return "".join([chunk.text async for chunk in model.astream("?")])


async def test_words_are_deltas() -> None:
    model = ScriptedChatModel(["One two  three"])
    assert [chunk.text async for chunk in model.astream("?")] == ["One", " two", "  three", ""]
    assert (model.calls, model.emitted, model.closed) == (1, 3, 0)
    assert model.prompts[0][0].content == "?"


async def test_turns_of_deltas_calls_chunks_and_errors() -> None:
    turn: list[Any] = [
        "Hi",
        {"name": "find", "args": {"q": [1, 2]}},
        {"name": "look"},
        AIMessageChunk(content="", id="own"),
    ]
    model = ScriptedChatModel([turn, [ValueError("down")]])
    answer = await model.ainvoke("?")
    assert [(call["name"], call["args"], call["id"]) for call in answer.tool_calls] == [
        ("find", {"q": [1, 2]}, "call_find_0"), ("look", {}, "call_look_1")
    ]  # fmt: skip
    assert (answer.text, answer.id, answer.response_metadata["finish_reason"]) == ("Hi", "own", "tool_calls")
    with pytest.raises(ValueError, match="down"):
        await model.ainvoke("?")
    with pytest.raises(IndexError, match="called 3 times and has 2 turns"):
        await model.ainvoke("?")


async def test_early_ends_are_counted() -> None:
    model = ScriptedChatModel(["a b c d", "a b c d", "a b c d"], delay_s=0.001)
    stream = model.astream("?")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert (model.closed, model.emitted) == (1, 1)
    task = asyncio.create_task(collect(model.astream("?")))
    await asyncio.sleep(0.0015)
    task.cancel()
    await asyncio.wait({task})
    assert model.closed == 2


def test_a_synchronous_stream_counts_its_early_end() -> None:
    model = ScriptedChatModel(["a b c d"])
    stream = model.stream("?")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert (model.closed, model.emitted) == (1, 1)


def test_a_tool_call_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="a tool call is"):
        ScriptedChatModel([[{"args": {}}]]).invoke("?")


@given(st.text(), st.integers(1, 9))
def test_deltas_are_the_text(text: str, size: int) -> None:
    pieces = deltas(text, size)
    assert "".join(pieces) == text
    assert all(len(piece) == size for piece in pieces[:-1])


def test_deltas_have_a_size() -> None:
    with pytest.raises(ValueError, match="size must be 1 or more"):
        deltas("x", 0)


async def test_paced_streams() -> None:
    closed = []

    async def source() -> Any:
        try:
            for number in range(10):
                yield number
        finally:
            closed.append(True)

    assert await collect(paced([1, 2], 0.001)) == [1, 2]
    stream = paced(source(), 0.001)
    assert await anext(stream) == 0
    await stream.aclose()  # type: ignore[attr-defined]
    assert closed == [True]


def test_langchain_is_loaded_only_when_asked_for() -> None:
    code = "import sys, guardmw.testing; assert 'langchain_core' not in sys.modules; guardmw.testing.ScriptedChatModel"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing  # noqa: B018
