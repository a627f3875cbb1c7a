"""The metrics of guardmw, through the OpenTelemetry API.

Attributes are low in cardinality: agent, policy, source, category, result, action and error type, never an id of a
conversation or a check, never free text. `context` ties an exemplar to the span it was measured in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from opentelemetry.metrics import Histogram, Meter

from guardmw.telemetry import names
from guardmw.telemetry.scope import meter

DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
"""A guard answers in 5 to 300 ms; the conventions' first bucket of 10 ms is too coarse for it."""

Attributes = Mapping[str, str | bool]


class Instruments:
    """The instruments of one meter, made on first use."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, description: str) -> Histogram:
            return meter.create_histogram(
                name, "s", description, explicit_bucket_boundaries_advisory=list(DURATION_BUCKETS_S)
            )

        self.check_duration = seconds(names.CHECK_DURATION, "How long one check took, rules and guard together.")
        self.first_release_delay = seconds(
            names.FIRST_RELEASE_DELAY, "From a stream's first character to the first one shown."
        )
        self.hold_time = seconds(names.HOLD_TIME, "The longest time a character of one stream was held back.")
        self.findings = meter.create_counter(
            names.FINDINGS, "{finding}", "Findings above the threshold of their category."
        )
        self.checks_active = meter.create_up_down_counter(
            names.CHECKS_ACTIVE, "{check}", "Checks being judged at this moment."
        )
        self.fallbacks = meter.create_counter(
            names.FALLBACKS, "{check}", "Checks whose guard failed, so that `on_guard_error` decided."
        )
        self.bypassed = meter.create_counter(
            names.STREAM_BYPASSED, "{stream}", "Streams of a guarded agent that reached their reader unchecked."
        )
        self.cache_lookups = meter.create_counter(
            names.CACHE_LOOKUPS, "{lookup}", "Verdicts looked up, by whether one was known already."
        )
        self.cascade_checks = meter.create_counter(
            names.CASCADE_CHECKS, "{check}", "Checks a cascade judged, by whether its second guard was asked."
        )


def instruments() -> Instruments:
    return _instruments(meter())


@lru_cache(maxsize=4)
def _instruments(meter: Meter) -> Instruments:
    return Instruments(meter)


def cascade_checked(*, escalated: bool) -> None:
    """Count a check that a cascade judged."""
    instruments().cascade_checks.add(1, {names.ESCALATED: escalated})


def stream_bypassed(agent: str) -> None:
    """Count a stream of `agent` that reached its reader unchecked."""
    instruments().bypassed.add(1, {names.AGENT_NAME: agent})
