"""A convenience for applications that don't set up OpenTelemetry themselves. The library never calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from guardmw.errors import TelemetryError

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

NEEDS_SDK = "this needs the OpenTelemetry SDK: pip install 'guardmw[otel]'"


def setup_telemetry(service_name: str, *, endpoint: str | None = None, console: bool = False) -> Callable[[], None]:
    """Make the process send traces, metrics and events by OTLP over HTTP; call the result once to flush and stop.

    `endpoint` is the base URL of a collector such as ``http://localhost:4318``; None takes it from the variables
    ``OTEL_EXPORTER_OTLP_*``. With `console` the spans are also printed; they are only printed when `endpoint` is None.

    Raises TelemetryError when the SDK is missing, or when the process has its global providers already: then
    guardmw writes to those without any setup.
    """
    if sdk_configured():
        raise TelemetryError(
            "OpenTelemetry is set up in this process already, and guardmw writes to it: leave setup_telemetry out"
        )
    try:
        stops = _set_up(service_name, endpoint, console=console)
    except ModuleNotFoundError as error:
        raise TelemetryError(NEEDS_SDK) from error
    return lambda: _stop(stops)


def sdk_configured() -> bool:
    """Whether the process has a global tracer provider that may record anything."""
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _set_up(service_name: str, endpoint: str | None, *, console: bool) -> list[Callable[[], None]]:
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.name": service_name})
    export = endpoint is not None or not console
    stops: list[Callable[[], None]] = [_tracers(resource, endpoint, export=export, console=console).shutdown]
    if export:
        stops += [_meters(resource, endpoint).shutdown, _loggers(resource, endpoint).shutdown]
    return stops


def _stop(stops: list[Callable[[], None]]) -> None:
    while stops:
        stops.pop()()


def _tracers(resource: Resource, endpoint: str | None, *, export: bool, console: bool) -> TracerProvider:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider(resource=resource)
    if export:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_url(endpoint, "traces"))))
    if console:
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def _meters(resource: Resource, endpoint: str | None) -> MeterProvider:
    from opentelemetry import metrics
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=_url(endpoint, "metrics")))
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    metrics.set_meter_provider(provider)
    return provider


def _loggers(resource: Resource, endpoint: str | None) -> LoggerProvider:
    from opentelemetry import _logs
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=resource)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(endpoint=_url(endpoint, "logs"))))
    _logs.set_logger_provider(provider)
    return provider


def _url(endpoint: str | None, signal: str) -> str | None:
    return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"
