"""Setting telemetry up, sending it, and drawing it."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from rich.console import Console

from guardmw.errors import TelemetryError
from guardmw.policy.schema import Policy
from guardmw.telemetry.record import CheckSpan, StreamSpan
from guardmw.telemetry.scope import tracer
from guardmw.telemetry.tree import collect_spans, span_tree
from guardmw.types import Check, Decision, Finding, Verdict

POLICY = Policy(id="p")

# Global providers can be set once per process only, so applications are processes of their own here.
APPLICATION = """
import sys
from guardmw.policy.schema import Policy
from guardmw.telemetry.record import CheckSpan
from guardmw.telemetry.setup import sdk_configured, setup_telemetry
from guardmw.types import Check, Decision, Finding, Verdict

assert not sdk_configured()
stop = setup_telemetry("shop", endpoint=sys.argv[1] or None, console=not sys.argv[1])
assert sdk_configured()
check = Check("output", "hello")
verdict = Verdict((Finding("email", 1.0, "detector:pii.email"),))
CheckSpan.start(check, Policy(id="p"), "embedded").end(Decision(check, verdict, "flag", "why"))
try:
    setup_telemetry("again")
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr)
stop()
stop()
"""


def run_application(endpoint: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", APPLICATION, endpoint], capture_output=True, text=True, check=True, timeout=50
    )


@pytest.fixture
def collector() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server that takes what is sent by OTLP: its address, and the bodies by path."""
    bodies: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies[self.path] = bodies.get(self.path, b"") + _plain(body, self.headers.get("Content-Encoding"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def _plain(body: bytes, encoding: str | None) -> bytes:
    return gzip.decompress(body) if encoding == "gzip" else body


def test_everything_reaches_the_collector(collector: tuple[str, dict[str, bytes]]) -> None:
    endpoint, bodies = collector
    done = run_application(endpoint)
    assert "TelemetryError OpenTelemetry is set up in this process already" in done.stderr
    assert b"apply_guardrail embedded" in bodies["/v1/traces"]
    assert b"guardmw.check.duration" in bodies["/v1/metrics"]
    assert b"guardmw.result" in bodies["/v1/logs"]
    assert all(b"shop" in body for body in bodies.values())


def test_the_console_prints_spans() -> None:
    span = json.loads(run_application("").stdout)
    assert span["name"] == "apply_guardrail embedded"
    assert span["resource"]["attributes"]["service.name"] == "shop"


@pytest.mark.parametrize("call", ["setup.setup_telemetry('x')", "tree.collect_spans().__enter__()"])
def test_without_the_sdk_the_error_names_the_extra(call: str) -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from guardmw.errors import TelemetryError\nfrom guardmw.telemetry import setup, tree\n"
        f"try:\n    {call}\nexcept TelemetryError as error:\n    print(error)"
    )
    shown = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=50)
    assert "pip install 'guardmw[otel]'" in shown


def checked(span: CheckSpan, check: Check) -> None:
    found = (Finding("email", 1.0, "detector:pii.email"),)
    span.end(Decision(check, Verdict(found), "block", "why"))


def test_the_tree_shows_children_under_their_parents_in_order_of_start() -> None:
    with collect_spans() as collected:
        stream = StreamSpan.start("shop", POLICY, "s")
        for surface in ("output", "reasoning"):
            check = Check(surface, "secret text", stream_id="s")
            checked(CheckSpan.start(check, POLICY, "embedded", stream.context), check)
        stream.end(
            windows=2, chars_in=9, chars_out=4, hold_max_s=0, first_release_delay_s=None, terminated_at_char=4,
            action="block",
        )  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(collected.tree("run"))
    title, top, first, second = console.export_text().splitlines()
    assert title == "run"
    assert top.startswith("└── guard_stream shop")
    assert "windows=2" in top
    assert "cut at=4" in top
    assert first.startswith("    ├── apply_guardrail embedded")
    assert "category=email" in first
    assert "score=1.00" in first
    assert "surface=reasoning" in second
    assert "secret" not in console.export_text()


def test_a_span_without_its_parent_stands_at_the_top() -> None:
    with collect_spans() as collected:
        outer = tracer().start_span("outer")
        tracer().start_span("inner", trace.set_span_in_context(outer)).end()
    assert [child.label.plain.split()[0] for child in span_tree(collected.spans).children] == ["inner"]  # type: ignore[union-attr]


def test_collecting_leaves_the_global_provider_alone_and_ends() -> None:
    before = trace.get_tracer_provider()
    with collect_spans() as outer:
        with collect_spans() as inner:
            tracer().start_span("one").end()
        tracer().start_span("two").end()
    tracer().start_span("three").end()
    assert trace.get_tracer_provider() is before
    assert [span.name for span in inner.spans] == ["one"]
    assert [span.name for span in outer.spans] == ["two"]


def test_collecting_ends_when_the_block_fails() -> None:
    def fail() -> None:
        with collect_spans():
            raise TelemetryError("any")

    with pytest.raises(TelemetryError, match="any"):
        fail()
    assert not tracer().start_span("after").is_recording()
