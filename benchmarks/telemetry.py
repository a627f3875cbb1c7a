"""What telemetry costs one check, without an SDK and with one. Limits: 5 µs and 100 µs; a check with a finding, which
is also counted and told as an event, may cost 10 and 150.

    python benchmarks/telemetry.py [FOLDER]        # also writes FOLDER/telemetry.json (default: out)

Run on a quiet machine. The best of several rounds is shown, so that other work on the machine counts little. "With SDK"
records spans, metrics and events through batch processors whose exporters throw everything away.
"""

from __future__ import annotations

import json
import sys
import timeit
from pathlib import Path
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from guardmw.policy.schema import Category, Policy
from guardmw.telemetry.record import CheckSpan
from guardmw.telemetry.scope import Providers, using
from guardmw.types import Action, Check, Decision, Finding, Verdict

ROUNDS, CHECKS = 15, 2000
LIMITS_US = {"no SDK": {"clean": 5.0, "blocked": 10.0}, "SDK": {"clean": 100.0, "blocked": 150.0}}
POLICY = Policy(id="shop", categories=(Category(id="advice", title="Advice", unsafe_when="Advice is given."),))
CHECK = Check("output", "a text of some length " * 20, "support", POLICY.ref, stream_id="s")


class Nowhere:
    def export(self, batch: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def decision(action: Action, probability: float) -> Decision:
    return Decision(CHECK, Verdict((Finding("advice", probability, "guard:g"),), "g", "1"), action, "why")


def cost_us(decision: Decision) -> float:
    def check() -> None:
        CheckSpan.start(CHECK, POLICY, "g").end(decision)

    return min(timeit.repeat(check, number=CHECKS, repeat=ROUNDS)) / CHECKS * 1e6


def sdk() -> Providers:
    tracers, loggers = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))  # type: ignore[arg-type]
    loggers.add_log_record_processor(BatchLogRecordProcessor(Nowhere()))  # type: ignore[arg-type]
    return Providers(tracers, MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False), loggers)


def measure() -> dict[str, dict[str, float]]:
    kinds = {"clean": decision("allow", 0.1), "blocked": decision("block", 0.9)}
    results = {"no SDK": {kind: cost_us(each) for kind, each in kinds.items()}}
    with using(sdk()):
        results["SDK"] = {kind: cost_us(each) for kind, each in kinds.items()}
    return results


def main() -> int:
    results = measure()
    for setting, costs in results.items():
        for kind, cost in costs.items():
            print(f"{setting:8} {kind:8} {cost:7.1f} µs a check (limit {LIMITS_US[setting][kind]:g})")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "telemetry.json").write_text(json.dumps({"us_per_check": results, "limits_us": LIMITS_US}, indent=2))
    return int(
        any(cost > LIMITS_US[setting][kind] for setting, costs in results.items() for kind, cost in costs.items())
    )


if __name__ == "__main__":
    sys.exit(main())
