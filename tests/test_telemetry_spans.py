"""The spans as others see them. Names are public API, so they stand here as raw strings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from guardmw.policy.schema import Category, Policy
from guardmw.telemetry import content, names
from guardmw.telemetry.record import CheckSpan, StreamSpan
from guardmw.telemetry.tree import CollectedSpans, collect_spans
from guardmw.types import Action, Check, Decision, Finding, Mode, Redaction, Surface, TokenUsage, Verdict

SECRET = "my password is swordfish"
POLICY = Policy(
    id="support",
    categories=(
        Category(id="advice", title="Advice", unsafe_when="Advice is given.", ask_above=0.4, block_above=0.8),
        Category(id="insult", title="Insult", unsafe_when="Somebody is insulted.", surfaces=("input",)),
    ),
)


@pytest.fixture
def collected() -> Iterator[CollectedSpans]:
    with collect_spans() as collected:
        yield collected


@pytest.fixture(autouse=True)
def _read_environment_again() -> Iterator[None]:
    for cached in (names.opted_in, content.capture):
        cached.cache_clear()
    yield
    for cached in (names.opted_in, content.capture):
        cached.cache_clear()


def decided(
    action: Action = "allow",
    *findings: Finding,
    surface: Surface = "output",
    stream_id: str | None = None,
    mode: Mode = "enforce",
    error: str | None = None,
    redactions: tuple[Redaction, ...] = (),
) -> Decision:
    check = Check(surface, SECRET, "support-bot", POLICY.ref, stream_id=stream_id, offset_chars=3, id="c1")
    verdict = Verdict(findings, "embedded", "v7", TokenUsage(10, 4, 1), 0.002, error=error)
    return Decision(check, verdict, action, f"because of {SECRET}", mode, redactions)


def record(decision: Decision) -> None:
    CheckSpan.start(decision.check, POLICY, "embedded").end(decision)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def only(collected: CollectedSpans) -> ReadableSpan:
    (span,) = collected.spans
    return span


def end_stream(span: StreamSpan, action: Action = "allow", **changed: Any) -> None:
    given: dict[str, Any] = {
        "windows": 2,
        "chars_in": 40,
        "chars_out": 30,
        "hold_max_s": 0.02,
        "first_release_delay_s": 0.01,
        "terminated_at_char": None,
        "action": action,
    }
    span.end(**(given | changed))


def test_a_blocked_check(collected: CollectedSpans) -> None:
    record(decided("block", Finding("advice", 0.9, "guard:embedded"), Finding("insult", 0.95, "guard:embedded")))
    span = only(collected)
    found = attributes(span)
    assert span.name == "apply_guardrail embedded"
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET  # a block is not an error
    assert found.pop("guardmw.content.hash").startswith("hmac-sha256:")
    assert found == {
        "gen_ai.operation.name": "apply_guardrail",
        "gen_ai.agent.name": "support-bot",
        "openinference.span.kind": "GUARDRAIL",
        "guardmw.component.name": "embedded",
        "guardmw.component.version": "v7",
        "guardmw.policy.id": "support",
        "guardmw.policy.version": POLICY.hash,
        "guardmw.policy.rule.id": "advice",
        "guardmw.source": "output",
        "guardmw.surface": "output",
        "guardmw.check.id": "c1",
        "guardmw.result.type": "verdict",
        "guardmw.result.value": "block",
        "guardmw.result.reason": "guard:embedded found advice",
        "guardmw.risk.category": "advice",  # insults are judged on inputs only
        "guardmw.risk.score": 0.9,
        "guardmw.action": "block",
        "guardmw.mode": "enforce",
        "guardmw.cache.hit": False,
        "guardmw.content.chars": len(SECRET),
        "guardmw.tokens.prompt": 10,
        "guardmw.tokens.cached": 4,
        "guardmw.tokens.completion": 1,
    }


def test_a_clean_check_has_a_score_and_no_category(collected: CollectedSpans) -> None:
    record(decided("allow", Finding("advice", 0.2, "guard:embedded")))
    found = attributes(only(collected))
    assert found["guardmw.risk.score"] == 0.2
    assert "guardmw.risk.category" not in found
    assert "guardmw.result.reason" not in found


def test_a_rule_and_a_detector_name_themselves(collected: CollectedSpans) -> None:
    record(decided("block", Finding("no-exfiltration", 1.0, "rule:no-exfiltration"), surface="tool_call"))
    record(decided("redact", Finding("email", 1.0, "detector:pii.email", (0, 4))))
    rule, detector = (attributes(span) for span in collected.spans)
    assert rule["guardmw.policy.rule.id"] == "rule:no-exfiltration"
    assert detector["guardmw.policy.rule.id"] == "detector:pii.email"
    assert detector["guardmw.risk.category"] == "email"


@pytest.mark.parametrize(
    ("surface", "source"),
    [
        ("input", "input"),
        ("output", "output"),
        ("reasoning", "output"),
        ("tool_call", "tool_input"),
        ("tool_result", "tool_output"),
    ],
)
def test_surfaces_map_to_sources(collected: CollectedSpans, surface: Surface, source: str) -> None:
    record(decided(surface=surface))
    assert attributes(only(collected))["guardmw.source"] == source
    assert attributes(only(collected))["guardmw.surface"] == surface


@pytest.mark.parametrize(
    ("decision", "result", "action"),
    [
        (decided("flag"), "flag", "allow"),
        (decided("redact"), "redact", "redact"),
        (decided("ask"), "escalate", "block"),
        (decided("ask", surface="tool_call"), "escalate", "interrupt"),
        (decided("ask", stream_id="s"), "escalate", "terminate_stream"),
        (decided("block", stream_id="s", surface="reasoning"), "block", "terminate_stream"),
        (decided("block", stream_id="s", surface="input"), "block", "block"),
        (decided("block", mode="shadow"), "block", "allow"),
    ],
)
def test_result_says_what_the_policy_wants_and_action_what_is_done(
    collected: CollectedSpans, decision: Decision, result: str, action: str
) -> None:
    record(decision)
    found = attributes(only(collected))
    assert (found["guardmw.result.value"], found["guardmw.action"]) == (result, action)
    assert found["guardmw.mode"] == decision.mode


def test_a_failed_guard_is_an_error(collected: CollectedSpans) -> None:
    record(decided("block", error="timeout"))
    span = only(collected)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "timeout"
    assert attributes(span)["guardmw.result.reason"] == "guard failed: timeout"


def test_a_cancelled_check_is_no_error_and_ends_once(collected: CollectedSpans) -> None:
    span = CheckSpan.start(decided().check, POLICY, "embedded")
    span.cancel()
    span.end(decided("block", error="timeout"))
    span.cancel()
    ended = only(collected)
    assert attributes(ended)["guardmw.cancelled"] is True
    assert ended.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(ended)


def test_a_stream_is_the_parent_of_its_checks_and_they_of_the_guards_own_spans(collected: CollectedSpans) -> None:
    from guardmw.telemetry.scope import tracer

    with tracer().start_as_current_span("invoke_agent"):
        stream = StreamSpan.start("support-bot", POLICY, "s1")
        check = CheckSpan.start(decided(stream_id="s1").check, POLICY, "embedded", stream.context)
        tracer().start_span("chat guard", check.context).end()
        check.end(decided("block", Finding("advice", 0.9, "guard:embedded"), stream_id="s1"))
        end_stream(stream, "block", terminated_at_char=12)
    chat, guarded, streamed, agent = collected.spans
    assert [chat.name, guarded.name, streamed.name] == [
        "chat guard", "apply_guardrail embedded", "guard_stream support-bot",
    ]  # fmt: skip
    for child, parent in ((chat, guarded), (guarded, streamed), (streamed, agent)):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
    assert attributes(guarded)["guardmw.stream.id"] == "s1"
    assert attributes(guarded)["guardmw.stream.offset_chars"] == 3
    assert attributes(streamed) == {
        "gen_ai.operation.name": "guard_stream",
        "gen_ai.agent.name": "support-bot",
        "openinference.span.kind": "GUARDRAIL",
        "guardmw.source": "output",
        "guardmw.policy.id": "support",
        "guardmw.policy.version": POLICY.hash,
        "guardmw.mode": "enforce",
        "guardmw.stream.id": "s1",
        "guardmw.stream.windows": 2,
        "guardmw.stream.chars_in": 40,
        "guardmw.stream.chars_out": 30,
        "guardmw.stream.hold_max_s": 0.02,
        "guardmw.stream.first_release_delay_s": 0.01,
        "guardmw.stream.terminated_at_char": 12,
        "guardmw.result.value": "block",
        "guardmw.action": "terminate_stream",
    }


@pytest.mark.parametrize("closed", [asyncio.CancelledError(), GeneratorExit()])
def test_a_stream_closed_by_its_reader_is_no_error(collected: CollectedSpans, closed: BaseException) -> None:
    end_stream(StreamSpan.start("a", POLICY, "s"), error=closed)
    assert only(collected).status.status_code is StatusCode.UNSET
    assert attributes(only(collected))["guardmw.cancelled"] is True


def test_a_stream_that_broke_is_an_error(collected: CollectedSpans) -> None:
    end_stream(StreamSpan.start("a", POLICY, "s"), error=ConnectionResetError(SECRET), first_release_delay_s=None)
    assert only(collected).status.status_code is StatusCode.ERROR
    assert attributes(only(collected))["error.type"] == "ConnectionResetError"
    assert "guardmw.stream.first_release_delay_s" not in attributes(only(collected))
    assert SECRET not in str(only(collected).to_json())


def test_a_shadowed_stream_is_never_cut(collected: CollectedSpans) -> None:
    shadow = POLICY.model_copy(update={"mode": "shadow"})
    end_stream(StreamSpan.start("a", shadow, "s"), "block")
    found = attributes(only(collected))
    assert (found["guardmw.result.value"], found["guardmw.action"]) == ("block", "allow")


@pytest.mark.parametrize("action", ["allow", "redact", "block"])
def test_content_stays_out_by_default(collected: CollectedSpans, action: Action) -> None:
    record(decided(action, Finding("advice", 0.9, "guard:embedded", rationale=SECRET)))
    shown = only(collected).to_json()
    assert "swordfish" not in shown
    assert attributes(only(collected))["guardmw.content.chars"] == len(SECRET)


def test_equal_texts_have_equal_hashes_and_others_others() -> None:
    one, same, other = (content.described(Check("output", text)) for text in ("a\ud800", "a\ud800", "b"))
    assert one["guardmw.content.hash"] == same["guardmw.content.hash"] != other["guardmw.content.hash"]


@pytest.mark.parametrize(
    ("value", "captured"), [("SPAN_ONLY", True), ("span_and_event", True), ("EVENT_ONLY", False), ("yes", False)]
)
def test_content_is_recorded_when_asked_for(
    collected: CollectedSpans, monkeypatch: pytest.MonkeyPatch, value: str, captured: bool
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", value)
    record(decided("redact", redactions=(Redaction((15, 24), "[PASSWORD]"),)))
    found = attributes(only(collected))
    assert found.get("guardmw.content.input.value") == (f'"{SECRET}"' if captured else None)
    assert found.get("guardmw.content.output.value") == ('"my password is [PASSWORD]"' if captured else None)


def test_what_is_withheld_has_no_output_and_long_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    check = Check("output", "x" * 100_000)
    captured = content.on_span(Decision(check, Verdict(), "block", ""))
    assert set(captured) == {"guardmw.content.input.value"}
    assert len(captured["guardmw.content.input.value"]) < 5000


def test_the_opt_in_swaps_the_prefix_of_the_proposals_names_only(
    collected: CollectedSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    record(decided("block", Finding("advice", 0.9, "guard:embedded")))
    found = set(attributes(only(collected)))
    swapped = {
        "component.name", "policy.id", "policy.version", "policy.rule.id", "source", "result.type", "result.value",
        "result.reason", "risk.category", "risk.score",
    }  # fmt: skip
    assert {f"gen_ai.guardrail.{suffix}" for suffix in swapped} <= found
    assert not {f"guardmw.{suffix}" for suffix in swapped} & found
    assert {"guardmw.action", "guardmw.mode", "guardmw.content.hash"} <= found


def test_the_scope_carries_the_version_of_the_names(collected: CollectedSpans) -> None:
    record(decided())
    scope = only(collected).instrumentation_scope
    assert scope is not None
    assert scope.name == "guardmw"
    assert dict(scope.attributes or {}) == {"guardmw.telemetry.version": 1}


async def test_a_stream_read_by_another_task_leaks_no_span(
    collected: CollectedSpans, caplog: pytest.LogCaptureFixture
) -> None:
    async def guarded() -> Any:
        span = StreamSpan.start("a", POLICY, "s")
        try:
            for number in range(3):
                yield number
        finally:
            end_stream(span, error=GeneratorExit())

    async def read_one(stream: Any) -> int:
        number: int = await anext(stream)
        assert trace.get_current_span() is trace.INVALID_SPAN
        return number

    async with aclosing(guarded()) as stream:
        assert await asyncio.create_task(read_one(stream)) == 0
        assert await read_one(stream) == 1
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert only(collected).name == "guard_stream a"
    assert "Failed to detach context" not in caplog.text


def test_without_an_sdk_nothing_is_recorded_and_nothing_breaks() -> None:
    span = CheckSpan.start(decided().check, POLICY, "embedded")
    span.end(decided("block", Finding("advice", 0.9, "guard:embedded")))
    end_stream(StreamSpan.start("a", POLICY, "s"))
    assert not trace.get_current_span(span.context).get_span_context().is_valid
