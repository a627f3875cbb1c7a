"""The span of one call to a guard model's server, and the header that carries it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from guardmw.telemetry import names
from guardmw.telemetry.scope import tracer
from guardmw.types import TokenUsage

if TYPE_CHECKING:
    from guardmw.telemetry.attributes import Attributes

_PROPAGATOR = TraceContextTextMapPropagator()


class ChatSpan:
    """The CLIENT span ``chat {model}``, a child of the current span (that of the check). Call `end` or `fail` once."""

    def __init__(self, model: str, host: str, port: int) -> None:
        attributes: Attributes = {
            names.OPERATION_NAME: names.CHAT,
            names.PROVIDER_NAME: names.PROVIDER_VLLM,
            names.REQUEST_MODEL: model,
            names.SERVER_ADDRESS: host,
            names.SERVER_PORT: port,
            names.SPAN_KIND: names.SPAN_KIND_LLM,
        }
        self._span = tracer().start_span(f"{names.CHAT} {model}", kind=SpanKind.CLIENT, attributes=attributes)

    def inject(self, headers: dict[str, str]) -> None:
        """Write ``traceparent`` (and ``tracestate``) into `headers`; nothing when there is no trace."""
        if self._span.get_span_context().is_valid:
            _PROPAGATOR.inject(headers, set_span_in_context(self._span))

    def end(self, answer: Mapping[str, Any], usage: TokenUsage, host: str, port: int) -> None:
        """End the span with what the server said of its answer; `host` and `port` are of the one that gave it."""
        if self._span.is_recording():
            self._span.set_attributes({names.SERVER_ADDRESS: host, names.SERVER_PORT: port})
            self._describe(answer, usage)
        self._span.end()

    def fail(self, error_type: str) -> None:
        """End the span of a call without a usable answer."""
        self._span.set_attribute(names.ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def cancel(self) -> None:
        """End the span of a call nobody waits for any more: no error."""
        self._span.set_attribute(names.CANCELLED, True)
        self._span.end()

    def _describe(self, answer: Mapping[str, Any], usage: TokenUsage) -> None:
        for name, key in ((names.RESPONSE_ID, "id"), (names.RESPONSE_MODEL, "model")):
            if isinstance(answer.get(key), str):
                self._span.set_attribute(name, answer[key])
        choices = answer.get("choices")
        if isinstance(choices, list):
            reasons = [str(each.get("finish_reason")) for each in choices if isinstance(each, dict)]
            self._span.set_attribute(names.FINISH_REASONS, reasons)
        self._span.set_attribute(names.USAGE_INPUT_TOKENS, usage.prompt)
        self._span.set_attribute(names.USAGE_OUTPUT_TOKENS, usage.completion)
        self._span.set_attribute(names.USAGE_CACHED_TOKENS, usage.cached)
