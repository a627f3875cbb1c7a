"""Metrics and events, by their raw names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from guardmw.policy.schema import Category, GuardErrors, Policy
from guardmw.telemetry import content
from guardmw.telemetry.metrics import stream_bypassed
from guardmw.telemetry.record import CheckSpan, StreamSpan
from guardmw.telemetry.scope import Providers, using
from guardmw.types import Action, Check, Decision, Finding, Verdict

POLICY = Policy(
    id="support",
    categories=(Category(id="advice", title="Advice", unsafe_when="Advice is given."),),
    on_guard_error=GuardErrors(input="allow"),
)
CHECK = Check("output", "buy ACME", "bot", POLICY.ref)
ADVICE = Finding("advice", 0.9, "guard:g")
EMAIL = Finding("email", 1.0, "detector:pii.email", (0, 3))


class Events:
    """An exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def export(self, batch: Any) -> None:
        self.records += [each.log_record for each in batch]

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


@dataclass
class Seen:
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    events: Events = field(default_factory=Events)

    @property
    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    def one(self, name: str) -> tuple[Any, dict[str, Any]]:
        (point,) = self.points[name]
        return getattr(point, "value", None), dict(point.attributes)


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    content.capture.cache_clear()
    meters = MeterProvider([seen.reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False)
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(seen.events))  # type: ignore[arg-type]
    with using(Providers(TracerProvider(shutdown_on_exit=False), meters, loggers)):
        yield seen
    meters.shutdown()
    loggers.shutdown()
    content.capture.cache_clear()


def record(action: Action, *findings: Finding, check: Check = CHECK, **verdict: Any) -> None:
    decision = Decision(check, Verdict(findings, "g", "1", **verdict), action, "why")
    CheckSpan.start(check, POLICY, "g").end(decision)


def test_the_duration_of_a_check(seen: Seen) -> None:
    record("block", ADVICE)
    (point,) = seen.points["guardmw.check.duration"]
    assert dict(point.attributes) == {
        "gen_ai.agent.name": "bot",
        "guardmw.policy.id": "support",
        "guardmw.source": "output",
        "guardmw.result.value": "block",
        "guardmw.action": "block",
    }
    assert point.count == 1
    assert point.explicit_bounds[:3] == (0.001, 0.0025, 0.005)
    assert point.exemplars[0].trace_id != 0  # tied to the span of the check


def test_findings_are_counted_by_category(seen: Seen) -> None:
    record("block", ADVICE, EMAIL)
    record("block", ADVICE)
    record("allow", Finding("advice", 0.1, "guard:g"))
    counts = {point.attributes["guardmw.risk.category"]: point.value for point in seen.points["guardmw.findings"]}
    assert counts == {"advice": 2, "email": 1}


def test_active_checks_return_to_zero(seen: Seen) -> None:
    running = CheckSpan.start(CHECK, POLICY, "g")
    assert seen.one("guardmw.checks.active") == (1, {"guardmw.source": "output"})
    running.cancel()
    running.cancel()
    record("allow")
    assert seen.one("guardmw.checks.active") == (0, {"guardmw.source": "output"})
    assert sum(point.count for point in seen.points["guardmw.check.duration"]) == 1  # a cancelled one isn't measured


@pytest.mark.parametrize(
    ("surface", "source", "fallback"), [("input", "input", "allow"), ("output", "output", "block")]
)
def test_a_failed_guard_is_a_fallback(seen: Seen, surface: Any, source: str, fallback: str) -> None:
    record("block", check=Check(surface, "x", "bot"), error="timeout")
    assert seen.one("guardmw.fallbacks") == (
        1,
        {"gen_ai.agent.name": "bot", "guardmw.source": source, "error.type": "timeout", "guardmw.fallback": fallback},
    )
    assert seen.one("guardmw.check.duration")[1]["error.type"] == "timeout"


def test_a_second_guard_that_answered_is_a_fallback_but_no_error(seen: Seen) -> None:
    record("allow", fell_back="connect_error")
    assert seen.one("guardmw.fallbacks")[1]["guardmw.fallback"] == "fallback"
    assert seen.one("guardmw.fallbacks")[1]["error.type"] == "connect_error"
    assert "error.type" not in seen.one("guardmw.check.duration")[1]


def test_cache_lookups_happen_outside_streams_only(seen: Seen) -> None:
    record("allow", cached=True)
    record("allow", check=Check("output", "x", "bot", stream_id="s"))
    assert seen.one("guardmw.cache.lookups") == (1, {"guardmw.cache.hit": True})


def test_the_delays_of_a_stream(seen: Seen) -> None:
    span = StreamSpan.start("bot", POLICY, "s")
    span.end(
        windows=1, chars_in=1, chars_out=1, hold_max_s=0.04, first_release_delay_s=0.02,
        terminated_at_char=None, action="allow",
    )  # fmt: skip
    (hold,) = seen.points["guardmw.stream.hold_time"]
    (delay,) = seen.points["guardmw.stream.first_release_delay"]
    assert (hold.sum, dict(hold.attributes)) == (0.04, {"gen_ai.agent.name": "bot"})
    assert (delay.sum, dict(delay.attributes)) == (0.02, {"gen_ai.agent.name": "bot", "guardmw.policy.id": "support"})


def test_a_bypassed_stream_is_counted(seen: Seen) -> None:
    stream_bypassed("bot")
    assert seen.one("guardmw.stream.bypassed") == (1, {"gen_ai.agent.name": "bot"})


def test_one_event_per_finding_on_the_span_of_the_check(seen: Seen) -> None:
    record("block", ADVICE, Finding("advice", 0.1, "guard:g"), EMAIL)
    first, second = seen.events.records
    assert first.event_name == second.event_name == "guardmw.result"
    assert first.severity_text == "WARN"
    assert first.trace_id != 0
    assert (first.trace_id, first.span_id) == (second.trace_id, second.span_id)
    assert first.attributes["guardmw.risk.category"] == "advice"
    assert first.attributes["guardmw.risk.score"] == 0.9
    assert second.attributes["guardmw.policy.rule.id"] == "detector:pii.email"
    assert "ACME" not in str(first.attributes)


def test_a_clean_check_makes_no_event_and_a_flag_is_no_warning(seen: Seen) -> None:
    record("allow", Finding("advice", 0.1, "guard:g"))
    assert not seen.events.records
    record("flag", ADVICE)
    assert [each.severity_text for each in seen.events.records] == ["INFO"]


def test_content_goes_on_events_when_asked_for(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "EVENT_ONLY")
    record("flag", ADVICE)
    assert seen.events.records[0].attributes["guardmw.content.input.value"] == '"buy ACME"'
