"""Log-based events: `guardmw.result`, one per finding above its threshold.

The logs API of OpenTelemetry for Python still lives under an underscore and has changed between releases, so it is
touched here only; where it can't be used, events are left out and everything else works.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING

from opentelemetry.context import Context

from guardmw.telemetry import names
from guardmw.telemetry.scope import PACKAGE_VERSION, logger_provider

try:
    from opentelemetry._logs import Logger, SeverityNumber, get_logger
except ImportError:
    USABLE = False
else:
    USABLE = "event_name" in signature(Logger.emit).parameters  # before 1.39 the SDK can't export the API's records

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.util.types import AttributeValue


def events_wanted(context: Context | None) -> bool:
    """Whether an event would go anywhere; asked first, since putting one together costs more than everything else."""
    if not USABLE:
        return False
    enabled = getattr(_logger(logger_provider()), "enabled", None)  # loggers can be asked since 1.42
    return enabled is None or bool(enabled(context=context))


def emit_event(name: str, attributes: Mapping[str, AttributeValue], context: Context | None, *, warn: bool) -> None:
    """Emit the event `name` on the span of `context` (None: the current one), with severity WARN or INFO.

    Call it only if `events_wanted`.
    """
    severity = SeverityNumber.WARN if warn else SeverityNumber.INFO
    _logger(logger_provider()).emit(
        event_name=name,
        context=context,
        severity_number=severity,
        severity_text=severity.name,
        attributes=dict(attributes),
    )


@lru_cache(maxsize=4)
def _logger(provider: LoggerProvider | None) -> Logger:
    return get_logger(names.SCOPE, PACKAGE_VERSION, provider)
