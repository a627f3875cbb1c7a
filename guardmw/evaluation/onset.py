"""Where the unsafe part of a labelled text begins, as its row says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guardmw.train.dataset import Row

__all__ = ["onset_of"]


def onset_of(row: Row) -> int | None:
    """Where the unsafe part of a row begins: ``meta.onset_chars``, else the first of ``meta.spans``, else None (for
    safe rows always).

    A span is ``[kind, start, end]``, ``[start, end]`` or an object with ``start``, in characters. Raises ValueError
    when what the row says is no place in its text.
    """
    meta = row.meta.model_extra or {}
    if not row.unsafe:
        return None
    if (onset := meta.get("onset_chars")) is not None:
        return _place(onset, "meta.onset_chars", row)
    if (spans := meta.get("spans")) is None:
        return None
    if not isinstance(spans, list):
        raise ValueError(f"meta.spans: a list is needed, not {type(spans).__name__}")
    return min((_place(_start(span), "meta.spans: each start", row) for span in spans), default=None)


def _place(value: object, name: str, row: Row) -> int:
    if type(value) is not int or not 0 <= value < len(row.content):
        raise ValueError(f"{name} must be a whole number of characters within the text")
    return value


def _start(span: object) -> object:
    if isinstance(span, Mapping):
        return span.get("start")
    if isinstance(span, Sequence) and not isinstance(span, str):
        return next((part for part in span if not isinstance(part, str)), None)
    return None
