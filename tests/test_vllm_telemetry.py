"""The calls to a guard's server in traces: a client span under the check's, carried on to the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from fault_server import Fault, FaultServer, GuardModel
from guardmw import Checker
from guardmw.guard.cascade import CascadeGuard
from guardmw.guard.vllm import VllmGuard
from guardmw.policy.schema import Category, Policy
from guardmw.telemetry import metrics
from guardmw.telemetry.tree import CollectedSpans, collect_spans
from guardmw.testing import FakeGuard
from guardmw.types import Check

POLICY = Policy(id="p", categories=(Category(id="advice", title="Advice", unsafe_when="It advises."),))


@pytest.fixture
def collected() -> Iterator[CollectedSpans]:
    with collect_spans() as collected:
        yield collected


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_the_call_is_a_client_span_below_the_check_s(collected: CollectedSpans) -> None:
    async with FaultServer(GuardModel(0.1)) as server, VllmGuard(server.url, model="tiny") as guard:
        await Checker(POLICY, guard=guard).check(Check("output", "secret words"))
        [seen] = server.asked
        port = int(server.url.rpartition(":")[2])
    chat, check = collected.spans
    assert (chat.name, check.name) == ("chat tiny", "apply_guardrail vllm")
    assert chat.kind is SpanKind.CLIENT
    assert chat.parent is not None
    assert chat.parent.span_id == check.context.span_id
    trace, span = f"{chat.context.trace_id:032x}", f"{chat.context.span_id:016x}"
    assert seen.headers["traceparent"].startswith(f"00-{trace}-{span}-")
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 1,
        "gen_ai.usage.cache_read.input_tokens": 96,
        "server.address": "127.0.0.1",
        "server.port": port,
        "openinference.span.kind": "LLM",
    }
    assert "secret" not in str(attributes(chat))
    assert "gen_ai.request.model" not in attributes(check)
    assert attributes(check)["guardmw.tokens.cached"] == 96


async def test_a_failed_call_is_a_failed_span(collected: CollectedSpans) -> None:
    async with FaultServer(GuardModel(0.1)) as server, VllmGuard(server.url, model="tiny") as guard:
        server.always = Fault(body=b"?")
        await Checker(POLICY, guard=guard).check(Check("output", "x"))
    chat = collected.spans[0]
    assert chat.status.status_code is StatusCode.ERROR
    assert attributes(chat)["error.type"] == "parse_error"


async def test_without_a_trace_nothing_is_sent() -> None:
    async with FaultServer(GuardModel(0.1)) as server, VllmGuard(server.url, model="tiny") as guard:
        await guard.check(Check("output", "x"), POLICY)
        assert "traceparent" not in server.asked[0].headers


async def test_a_cascade_counts_what_it_escalates(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[int, dict[str, Any]]] = []
    monkeypatch.setattr(
        metrics.instruments().cascade_checks, "add", lambda amount, labels: counted.append((amount, dict(labels)))
    )
    for probability in (0.01, 0.5):
        cascade = CascadeGuard(FakeGuard(lambda _, value=probability: value), FakeGuard())  # type: ignore[misc]
        await cascade.check(Check("output", "x"), POLICY)
    assert counted == [(1, {"guardmw.cascade.escalated": False}), (1, {"guardmw.cascade.escalated": True})]
