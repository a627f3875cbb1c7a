"""Spans collected in memory and drawn as a tree, for the terminal and for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from guardmw.errors import TelemetryError
from guardmw.telemetry import names
from guardmw.telemetry.scope import Providers, using
from guardmw.telemetry.setup import NEEDS_SDK

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from rich.text import Text
    from rich.tree import Tree

SHOWN = {
    names.RESULT_VALUE: "result",
    names.ACTION: "action",
    names.RISK_CATEGORY: "category",
    names.RISK_SCORE: "score",
    names.SURFACE: "surface",
    names.STREAM_WINDOWS: "windows",
    names.STREAM_CHARS_IN: "in",
    names.STREAM_CHARS_OUT: "out",
    names.STREAM_TERMINATED_AT: "cut at",
    names.CACHE_HIT: "cached",
    names.CANCELLED: "cancelled",
    names.ERROR_TYPE: "error",
}
"""The attributes a tree shows, and what it calls them."""

COLOURS = {"allow": "green", "flag": "yellow", "redact": "yellow", "escalate": "magenta", "block": "red"}


class CollectedSpans:
    """The spans that ended so far, in the order of their ends."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def tree(self, title: str = "spans") -> Tree:
        """The spans so far as a tree of the terminal."""
        return span_tree(self.spans, title)


@contextmanager
def collect_spans() -> Iterator[CollectedSpans]:
    """Keep the spans of guardmw in memory until the block ends, in the whole process.

    The global tracer provider is neither set nor used: spans of other libraries go where they always went. Raises
    TelemetryError when the OpenTelemetry SDK is missing.
    """
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ModuleNotFoundError as error:
        raise TelemetryError(NEEDS_SDK) from error
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        with using(Providers(tracers=provider)):
            yield CollectedSpans(exporter)
    finally:
        provider.shutdown()


def span_tree(spans: Sequence[ReadableSpan], title: str = "spans") -> Tree:
    """`spans` under their parents, by start; a span whose parent is not among them stands at the top."""
    from rich.tree import Tree

    root = Tree(title)
    ids = {span.context.span_id for span in spans if span.context}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent else None
        children.setdefault(parent if parent in ids else None, []).append(span)
    todo = [(root, span) for span in reversed(children.get(None, []))]
    while todo:
        branch, span = todo.pop()
        below = branch.add(_label(span))
        own_id = span.context.span_id if span.context else None
        todo += [(below, child) for child in reversed(children.get(own_id, []) if own_id else [])]
    return root


def _label(span: ReadableSpan) -> Text:
    from rich.text import Text

    attributes = span.attributes or {}
    result = str(attributes.get(names.emitted(names.RESULT_VALUE), ""))
    label = Text.assemble((span.name, f"bold {COLOURS.get(result, '')}".strip()), (f" {_milliseconds(span)}", "cyan"))
    for name, title in SHOWN.items():
        value = attributes.get(names.emitted(name))
        if value is not None and value is not False and not (name == names.ACTION and value == result):
            label.append(f"  {title}=", style="dim").append(_short(value))
    return label


def _milliseconds(span: ReadableSpan) -> str:
    return f"{((span.end_time or 0) - (span.start_time or 0)) / 1e6:.1f} ms"


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
