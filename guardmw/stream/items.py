"""What goes into a guarded stream, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from guardmw.types import Decision

StreamSurface = Literal["output", "reasoning", "tool_result"]
"""The surfaces that are streamed: what the user reads, what the model thinks before, and what a tool writes while it
runs."""


@dataclass(frozen=True, slots=True)
class Text:
    """A delta of the source."""

    surface: StreamSurface
    text: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that isn't text: passes in order once everything before it was released; lost after a block."""

    payload: Any


@dataclass(frozen=True, slots=True)
class Released:
    """Characters [start, end) of `surface`, shown as `text`; per surface contiguous and in order."""

    surface: StreamSurface
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """The last item of a stream that was cut: the decision, and what to show in place of the rest."""

    decision: Decision
    message: str


Delta = Text | Opaque
Item = Released | Opaque | Blocked
