"""Where telemetry goes: the global OpenTelemetry providers, or ones chosen for a while.

Only the OpenTelemetry API is used; without an SDK everything here is a no-op. No global provider is ever set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from guardmw.telemetry import names

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers guardmw writes to; None means the global one of the process."""

    tracers: trace.TracerProvider | None = None
    meters: metrics.MeterProvider | None = None
    loggers: LoggerProvider | None = None


PACKAGE_VERSION = version(names.SCOPE)  # read while importing: later it would block an event loop

_chosen = Providers()


@contextmanager
def using(providers: Providers) -> Iterator[None]:
    """Send the telemetry of guardmw to `providers` until the block ends, in all tasks and threads."""
    global _chosen
    before, _chosen = _chosen, providers
    try:
        yield
    finally:
        _chosen = before


def tracer() -> trace.Tracer:
    return _tracer(_chosen.tracers)


def meter() -> metrics.Meter:
    return _meter(_chosen.meters)


def logger_provider() -> LoggerProvider | None:
    return _chosen.loggers


# Few providers live in one process; the bound lets go of those that tests make.
@lru_cache(maxsize=4)
def _tracer(provider: trace.TracerProvider | None) -> trace.Tracer:
    return trace.get_tracer(names.SCOPE, PACKAGE_VERSION, provider, attributes=_scope_attributes())


@lru_cache(maxsize=4)
def _meter(provider: metrics.MeterProvider | None) -> metrics.Meter:
    return metrics.get_meter(names.SCOPE, PACKAGE_VERSION, provider, attributes=_scope_attributes())


def _scope_attributes() -> dict[str, int]:
    return {names.VERSION: names.TELEMETRY_VERSION}
