"""What one stream cost and did, for its span."""

from __future__ import annotations

from collections.abc import Mapping

from guardmw.stream.items import StreamSurface
from guardmw.stream.window import Chunk, StreamWindow
from guardmw.telemetry.record import StreamSpan
from guardmw.types import Action, Decision, most_severe


class StreamStats:
    """What the span of a stream reports."""

    def __init__(self) -> None:
        self.windows = 0
        self._started_s = 0.0
        self._chars_out = 0
        self._hold_max_s = 0.0
        self._first_release_s: float | None = None
        self._terminated_at_char: int | None = None
        self._action: Action = "allow"

    def begin(self, now_s: float) -> None:
        self._started_s = now_s

    def released(self, text: str, now_s: float) -> None:
        self._chars_out += len(text)
        if self._first_release_s is None:
            self._first_release_s = now_s - self._started_s

    def decided(self, decision: Decision, chunk: Chunk) -> None:
        self._action = most_severe(self._action, decision.action)
        if decision.withheld:
            self._terminated_at_char = chunk.start

    def held(self, since_s: float | None, now_s: float) -> None:
        if since_s is not None:
            self._hold_max_s = max(self._hold_max_s, now_s - since_s)

    def end(self, span: StreamSpan, windows: Mapping[StreamSurface, StreamWindow], error: BaseException | None) -> None:
        span.end(
            windows=self.windows,
            chars_in=sum(window.received for window in windows.values()),
            chars_out=self._chars_out,
            hold_max_s=self._hold_max_s,
            first_release_delay_s=self._first_release_s,
            terminated_at_char=self._terminated_at_char,
            action=self._action,
            error=error,
        )
