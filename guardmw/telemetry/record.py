"""One span per check and one per guarded stream, with the metrics and events that belong to them.

Spans are started with an explicit context and ended by hand: a span that is made current across a ``yield`` leaks
into whoever reads the stream, and fails to detach when the stream is closed from another task. A block is not an
error: the status of a span is ERROR only when the guard failed.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from guardmw.errors import GuardError
from guardmw.policy.schema import Policy
from guardmw.telemetry import attributes as attrs
from guardmw.telemetry import content, names
from guardmw.telemetry.events import emit_event, events_wanted
from guardmw.telemetry.findings import mattering, worst
from guardmw.telemetry.metrics import instruments
from guardmw.telemetry.scope import tracer
from guardmw.types import Action, Check, Decision, Finding

if TYPE_CHECKING:
    from guardmw.telemetry.attributes import Attributes

_NANOSECONDS = 1_000_000_000


class _Timed:
    """A span of one piece of work: measured by a clock that never jumps, ended exactly once."""

    def __init__(self, name: str, attributes: Attributes, parent: Context | None) -> None:
        self._parent = parent
        self._context: Context | None = None
        self._started_ns = time.perf_counter_ns()
        self._start_time_ns = time.time_ns()
        self._open = True
        self._span: Span = tracer().start_span(
            name, parent, SpanKind.INTERNAL, names.emitted_keys(attributes), start_time=self._start_time_ns
        )
        self._recording = self._span.is_recording()

    @property
    def context(self) -> Context:
        """The context that makes this span the parent of others."""
        if self._context is None:
            self._context = set_span_in_context(self._span, self._parent)
        return self._context

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this span the current one for what is called or awaited in the block, in the same task; a generator
        must not yield in there."""
        token = otel_context.attach(self.context)
        try:
            yield
        finally:
            otel_context.detach(token)

    def _close(self) -> bool:
        """True for the first caller only."""
        was_open, self._open = self._open, False
        return was_open

    def _exemplar(self) -> Context | None:
        return self.context if self._recording else None

    def _set(self, attributes: Attributes) -> None:
        self._span.set_attributes(names.emitted_keys(attributes))

    def _fail(self, error_type: str) -> None:
        self._span.set_attribute(names.ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def _end(self) -> float:
        """End the span; its duration in seconds."""
        elapsed_ns = time.perf_counter_ns() - self._started_ns
        self._span.end(end_time=self._start_time_ns + elapsed_ns)
        return elapsed_ns / _NANOSECONDS


class CheckSpan(_Timed):
    """The span ``apply_guardrail {guard}`` of one check. Call `end` or `cancel`; what comes second is ignored."""

    def __init__(self, check: Check, policy: Policy, guard_name: str, parent: Context | None) -> None:
        super().__init__(f"{names.APPLY_GUARDRAIL} {guard_name}", attrs.of_check(check, policy, guard_name), parent)
        self._policy = policy
        self._meters = instruments()
        self._active = names.emitted_keys({names.SOURCE: names.SOURCES[check.surface]})
        self._meters.checks_active.add(1, self._active, self._exemplar())

    @classmethod
    def start(cls, check: Check, policy: Policy, guard_name: str, parent: Context | None = None) -> CheckSpan:
        """Start the span of `check`, under the current span when `parent` is None."""
        return cls(check, policy, guard_name, parent)

    def end(self, decision: Decision) -> None:
        """End the span with what was decided, and record the decision's metrics and events."""
        if not self._close():
            return
        found = mattering(decision, self._policy)
        if self._recording:
            self._describe(decision, found)
        duration_s = self._end()
        self._measure(decision, found, duration_s)
        if found and events_wanted(self._exemplar()):
            self._emit(decision, found)

    def cancel(self) -> None:
        """End the span of a check that was cancelled or superseded: no error, and no measurement."""
        if not self._close():
            return
        self._span.set_attribute(names.CANCELLED, True)
        self._end()
        self._meters.checks_active.add(-1, self._active, self._exemplar())

    def _describe(self, decision: Decision, found: tuple[Finding, ...]) -> None:
        self._set(
            attrs.of_result(decision)
            | attrs.of_finding(decision, worst(found))
            | attrs.of_verdict(decision.verdict, found)
            | content.described(decision.check)
            | content.on_span(decision)
        )
        if decision.verdict.error is not None:
            self._fail(decision.verdict.error)

    def _measure(self, decision: Decision, found: tuple[Finding, ...], duration_s: float) -> None:
        meters, exemplar = self._meters, self._exemplar()
        check, verdict = decision.check, decision.verdict
        effect = names.effect(decision)
        labels: dict[str, str] = {
            names.AGENT_NAME: check.agent,
            names.POLICY_ID: self._policy.id,
            names.SOURCE: names.SOURCES[check.surface],
            names.RESULT_VALUE: names.RESULTS[decision.action],
            names.ACTION: effect,
        }
        if verdict.error is not None:
            labels[names.ERROR_TYPE] = verdict.error
        if failure := verdict.error or verdict.fell_back:
            self._measure_fallback(decision, failure)
        meters.checks_active.add(-1, self._active, exemplar)
        meters.check_duration.record(duration_s, names.emitted_keys(labels), exemplar)
        if verdict.guard and check.stream_id is None:  # the texts of streams only grow: they are not looked up
            meters.cache_lookups.add(1, {names.CACHE_HIT: verdict.cached}, exemplar)
        for finding in found:
            counted = {names.POLICY_ID: self._policy.id, names.RISK_CATEGORY: finding.category}
            counted |= {names.AGENT_NAME: check.agent, names.ACTION: effect}
            meters.findings.add(1, names.emitted_keys(counted), exemplar)

    def _measure_fallback(self, decision: Decision, error_type: str) -> None:
        surface = decision.check.surface
        labels: dict[str, str] = {
            names.AGENT_NAME: decision.check.agent,
            names.SOURCE: names.SOURCES[surface],
            names.ERROR_TYPE: error_type,
            names.FALLBACK: attrs.fallback(decision, self._policy),
        }
        self._meters.fallbacks.add(1, names.emitted_keys(labels), self._exemplar())

    def _emit(self, decision: Decision, found: tuple[Finding, ...]) -> None:
        common = attrs.of_event(decision, self._policy) | attrs.of_result(decision) | content.on_event(decision)
        warn = names.effect(decision) != "allow"
        for finding in found:
            own: Attributes = attrs.of_finding(decision, finding) | {names.RISK_SCORE: finding.probability}
            emit_event(names.emitted(names.RESULT_EVENT), names.emitted_keys(common | own), self._exemplar(), warn=warn)


class StreamSpan(_Timed):
    """The span ``guard_stream {agent}`` of one guarded stream, parent of the spans of its checks."""

    def __init__(self, agent: str, policy: Policy, stream_id: str, parent: Context | None) -> None:
        attributes: Attributes = {
            names.OPERATION_NAME: names.GUARD_STREAM,
            names.AGENT_NAME: agent,
            names.SOURCE: "output",
            names.POLICY_ID: policy.id,
            names.POLICY_VERSION: policy.hash,
            names.MODE: policy.mode,
            names.STREAM_ID: stream_id,
            names.SPAN_KIND: names.SPAN_KIND_GUARDRAIL,
        }
        super().__init__(f"{names.GUARD_STREAM} {agent}", attributes, parent)
        self._agent, self._policy = agent, policy

    @classmethod
    def start(cls, agent: str, policy: Policy, stream_id: str, parent: Context | None = None) -> StreamSpan:
        """Start the span of a stream, under the current span when `parent` is None."""
        return cls(agent, policy, stream_id, parent)

    def end(
        self,
        *,
        windows: int,
        chars_in: int,
        chars_out: int,
        hold_max_s: float,
        first_release_delay_s: float | None,
        terminated_at_char: int | None,
        action: Action,
        error: BaseException | None = None,
    ) -> None:
        """End the span. `windows` counts checks; `action` is the most severe that the policy asked for, whether or not
        it was enforced; `error` is what broke the stream: being cancelled or closed by its reader is no error."""
        if not self._close():
            return
        attributes: Attributes = {
            names.STREAM_WINDOWS: windows,
            names.STREAM_CHARS_IN: chars_in,
            names.STREAM_CHARS_OUT: chars_out,
            names.STREAM_HOLD_MAX: hold_max_s,
            names.RESULT_VALUE: names.RESULTS[action],
            names.ACTION: names.stream_effect(action if self._policy.mode == "enforce" else "allow"),
        }
        if first_release_delay_s is not None:
            attributes[names.STREAM_FIRST_RELEASE_DELAY] = first_release_delay_s
        if terminated_at_char is not None:
            attributes[names.STREAM_TERMINATED_AT] = terminated_at_char
        self._set(attributes)
        self._note(error)
        self._end()
        self._measure(hold_max_s, first_release_delay_s)

    def _note(self, error: BaseException | None) -> None:
        if isinstance(error, (CancelledError, GeneratorExit)):
            self._span.set_attribute(names.CANCELLED, True)
        elif error is not None:
            self._fail(error.error_type if isinstance(error, GuardError) else type(error).__qualname__)

    def _measure(self, hold_max_s: float, first_release_delay_s: float | None) -> None:
        meters, exemplar = instruments(), self._exemplar()
        meters.hold_time.record(hold_max_s, {names.AGENT_NAME: self._agent}, exemplar)
        if first_release_delay_s is not None:
            labels = names.emitted_keys({names.AGENT_NAME: self._agent, names.POLICY_ID: self._policy.id})
            meters.first_release_delay.record(first_release_delay_s, labels, exemplar)
