"""Whole span trees of real runs: a checker, a guarded stream, an agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from langchain.agents import create_agent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from guardmw import Check, Checker, Policy
from guardmw.policy.schema import Category
from guardmw.stream.gate import Blocked, Text, guard_stream
from guardmw.telemetry.scope import tracer
from guardmw.telemetry.tree import CollectedSpans, collect_spans
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware

MARKER = "xyzzy"
SAFE = "All parcels leave our house in the morning. "
POLICY = Policy(id="shop", categories=(Category(id="c", title="C", unsafe_when="Bad."),))
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": f"Where is my {SAFE}"}]}

Tree = dict[str, list[Any]]


@pytest.fixture
def collected() -> Iterator[CollectedSpans]:
    with collect_spans() as collected:
        yield collected


def tree(spans: Sequence[ReadableSpan], parent: int | None = None) -> list[Any]:
    """`spans` as nested lists: a name, or a pair of a name and its children, in the order of their starts."""
    below = [span for span in spans if (span.parent.span_id if span.parent else None) == parent]
    shown: list[Any] = []
    for span in sorted(below, key=lambda span: span.start_time or 0):
        children = tree(spans, span.context.span_id)
        shown.append((span.name, children) if children else span.name)
    return shown


def values(spans: Sequence[ReadableSpan], name: str) -> list[Any]:
    return [span.attributes[name] for span in spans if span.attributes and name in span.attributes]


async def source(*deltas: str) -> AsyncIterator[Text]:
    for delta in deltas:
        await asyncio.sleep(0.002)
        yield Text("output", delta)


def agent(answer: str, guard: FakeGuard) -> Any:
    return create_agent(
        ScriptedChatModel([answer]), [], middleware=[GuardMiddleware(POLICY, guard=guard, agent="shop")]
    )


async def test_a_check_stands_under_the_current_span(collected: CollectedSpans) -> None:
    checker = Checker(POLICY, guard=FakeGuard(unsafe=MARKER))
    with tracer().start_as_current_span("request"):
        decision = await checker.check(Check("output", MARKER, "shop"))
    assert tree(collected.spans) == [("request", ["apply_guardrail fake"])]
    assert values(collected.spans, "guardmw.result.value") == [decision.action] == ["block"]
    assert values(collected.spans, "guardmw.risk.category") == ["c"]


async def test_a_repeated_check_is_a_cache_hit(collected: CollectedSpans) -> None:
    checker = Checker(POLICY, guard=FakeGuard())
    for _ in range(2):
        await checker.check(Check("output", SAFE, "shop"))
    assert values(collected.spans, "guardmw.cache.hit") == [False, True]


async def test_a_guard_that_fails_makes_an_error_of_the_check_only(collected: CollectedSpans) -> None:
    checker = Checker(POLICY, guard=FakeGuard(fail="error"))
    async with aclosing(guard_stream(source(SAFE), checker, POLICY, agent="shop")) as stream:
        items = [item async for item in stream]
    assert isinstance(items[-1], Blocked)
    check, stream_span = collected.spans
    assert (check.name, check.status.status_code) == ("apply_guardrail fake", StatusCode.ERROR)
    assert values([check], "error.type") == ["connect_error"]
    assert (stream_span.name, stream_span.status.status_code) == ("guard_stream shop", StatusCode.UNSET)


async def test_a_stream_over_its_checks(collected: CollectedSpans) -> None:
    checker = Checker(POLICY, guard=FakeGuard(unsafe=MARKER))
    texts = [*[SAFE] * 20, f"and {MARKER}. ", *[SAFE] * 20]
    async with aclosing(guard_stream(source(*texts), checker, POLICY, agent="shop")) as stream:
        items = [item async for item in stream]
    assert isinstance(items[-1], Blocked)
    (root,) = tree(collected.spans)
    name, checks = root
    assert name == "guard_stream shop"
    assert set(checks) == {"apply_guardrail fake"}
    stream_span = collected.spans[-1]
    assert values([stream_span], "guardmw.action") == ["terminate_stream"]
    assert values([stream_span], "guardmw.stream.windows") == [len(checks)]
    assert (
        0 < values([stream_span], "guardmw.stream.chars_out")[0] <= values([stream_span], "guardmw.stream.chars_in")[0]
    )
    assert all(span.status.status_code is StatusCode.UNSET for span in collected.spans)
    assert MARKER not in "".join(span.to_json() for span in collected.spans)


async def test_a_stream_closed_in_its_middle_by_another_task(
    collected: CollectedSpans, caplog: pytest.LogCaptureFixture
) -> None:
    checker = Checker(POLICY, guard=FakeGuard(latency_s=0.001))
    stream = guard_stream(source(*[SAFE] * 50), checker, POLICY, agent="shop")
    with caplog.at_level(logging.DEBUG):
        await anext(stream)
        await asyncio.create_task(stream.aclose())
    assert "detach" not in caplog.text
    (stream_span,) = [span for span in collected.spans if span.name == "guard_stream shop"]
    assert stream_span.status.status_code is StatusCode.UNSET
    assert values([stream_span], "guardmw.stream.chars_out")[0] < 50 * len(SAFE)


@pytest.mark.parametrize("how", ["ainvoke", "messages", "values", "events"])
async def test_an_agents_spans_stand_under_the_callers(collected: CollectedSpans, how: str) -> None:
    guarded = agent(f"{SAFE} {MARKER} {SAFE}", FakeGuard(unsafe=MARKER))
    with tracer().start_as_current_span("request"):
        await consume(guarded, how)
    ((name, below),) = tree(collected.spans)
    assert name == "request"
    assert below[0] == "apply_guardrail fake"  # the question, once
    assert len(below) == 2
    stream, checks = below[1]
    assert stream == "guard_stream shop"
    assert set(checks) == {"apply_guardrail fake"}
    assert values(collected.spans, "guardmw.source")[0] == "input"
    everything = "".join(span.to_json() for span in collected.spans if span.name != "request")
    assert MARKER not in everything
    assert "parcels" not in everything


async def consume(guarded: Any, how: str) -> None:
    match how:
        case "ainvoke":
            await guarded.ainvoke(QUESTION)
        case "events":
            async for _ in guarded.astream_events(QUESTION, version="v2"):
                pass
        case mode:
            async for _ in guarded.astream(QUESTION, stream_mode=mode):
                pass
