"""One surface of one stream, without any input or output: push deltas, take chunks to judge, release what was cleared.

Positions are characters of the text received: ``received >= settled`` and ``received >= checked >= released``.
`settled` is how far detectors are sure, whatever follows (see `DetectorSet.scan`); a chunk never ends beyond it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from guardmw.policy.detectors import DetectorSet, Match, redactions
from guardmw.policy.schema import Streaming
from guardmw.types import Redaction

ReleaseMode = Literal["hold", "pass", "shadow"]
"""`hold` releases what a verdict cleared, `pass` what no detector objects to, `shadow` everything, unchanged."""

CHARS_PER_TOKEN = 4
MAX_CHUNK_CHARS = 8192
"""Most characters one check adds: a delta of a megabyte becomes many checks, each within its deadline."""

_SENTENCE_END = re.compile(r"[.!?\u2026](?=\s)|[\n\u3002\uff01\uff1f]")
_WORD_END = re.compile(r"(?<=\S)(?=\s)")


@dataclass(frozen=True, slots=True)
class Chunk:
    """What to judge next: the whole `text` so far, of which ``text[start:]`` is new; `matches` lie in the new part."""

    text: str
    start: int
    matches: tuple[Match, ...]
    final: bool

    @property
    def end(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True)
class Segment:
    """Characters [start, end) of the source, released as `text`: the same characters unless redacted."""

    start: int
    end: int
    text: str


class StreamWindow:
    """Collects deltas, says what is due to be judged, and hands out what may be shown.

    Deltas are never lost, reordered or judged twice as new text. Not safe for use from several threads.
    """

    def __init__(self, streaming: Streaming, detectors: DetectorSet, mode: ReleaseMode = "hold") -> None:
        self.received = self.checked = self.released = self.settled = 0
        self._mode = mode
        self._detectors = detectors
        self._text = ""
        self._pending: list[str] = []
        self._arrivals: deque[tuple[int, float]] = deque()
        self._matches: list[Match] = []
        self._redactions: deque[Redaction] = deque()
        self._barrier: int | None = None
        self._stuck_at = -1
        self._chunk_chars = streaming.chunk * CHARS_PER_TOKEN
        self._target = min(streaming.first_chunk * CHARS_PER_TOKEN, self._chunk_chars)
        self._max_hold_s = streaming.max_hold_ms / 1000

    def push(self, text: str, now_s: float) -> None:
        self._pending.append(text)
        self.received += len(text)
        self._arrivals.append((self.received, now_s))

    def due(self, now_s: float) -> bool:
        """True when enough text waits, or some has waited long enough, and trying again could help."""
        waiting = self.received - self.checked
        if waiting == 0 or self.received == self._stuck_at:
            return False
        return waiting >= self._target or now_s >= self._arrivals[0][1] + self._max_hold_s

    def due_at_s(self) -> float | None:
        """When `due` turns true without further text; None when it won't."""
        if not self._arrivals or self.received == self._stuck_at:
            return None
        return self._arrivals[0][1] + self._max_hold_s

    def next_chunk(self, *, flush: bool = False) -> Chunk | None:
        """The next chunk to judge, None when all that waits may still become part of a match.

        `flush` says that this surface has ended for now: everything received is then settled and gets judged.
        """
        self._settle(final=flush)
        end = self._cut(flush=flush)
        if end <= self.checked:
            self._stuck_at = self.received
            return None
        matches = tuple(match for match in self._matches if match.end <= end)
        return Chunk(self._text[:end], self.checked, matches, final=flush and end == self.received)

    def clear(self, chunk: Chunk, cleared: Iterable[Redaction] = ()) -> float | None:
        """`chunk` may be shown, but for `cleared` redactions. Gives the arrival time of its oldest text."""
        since = self._arrivals[0][1] if self._arrivals else None
        self.checked = chunk.end
        self._target = min(2 * self._target, self._chunk_chars)
        self._matches = self._matches[len(chunk.matches) :]
        while self._arrivals and self._arrivals[0][0] <= self.checked:
            self._arrivals.popleft()
        if self._mode == "hold":
            self._redactions.extend(redaction for redaction in cleared if redaction.span[1] > chunk.start)
        return since

    def release(self, upto: int) -> list[Segment]:
        """What may be shown now, of the characters before `upto` (a redaction that begins before it comes whole)."""
        limit = min(self._limit(), upto)
        segments = []
        while self._redactions and self._redactions[0].span[0] < limit:
            redaction = self._redactions.popleft()
            start, end = redaction.span
            segments += self._plain(max(start, self.released))
            segments.append(Segment(self.released, end, redaction.replacement))
            self.released = end
        return segments + self._plain(limit)

    def _plain(self, end: int) -> list[Segment]:
        if end <= self.released:
            return []
        segment = Segment(self.released, end, self._text[self.released : end])
        self.released = end
        return [segment]

    def _limit(self) -> int:
        match self._mode:
            case "hold":
                return self.checked
            case "shadow":
                self._join()
                return self.received
            case "pass":
                self._settle(final=False)
                return self.settled if self._barrier is None else self._barrier

    def _join(self) -> None:
        if self._pending:
            self._text = "".join((self._text, *self._pending))
            self._pending.clear()

    def _settle(self, *, final: bool) -> None:
        self._join()
        if self.settled == self.received:
            return
        scan = self._detectors.scan(self._text, self.settled, final=final)
        self.settled = scan.settled
        self._matches += scan.matches
        if self._mode == "pass":
            self._redactions.extend(redactions(scan.matches))
            stops = [match.start for match in scan.matches if match.action in ("ask", "block")]
            self._barrier = min(stops) if stops and self._barrier is None else self._barrier

    def _cut(self, *, flush: bool) -> int:
        end = min(self.settled, self.checked + MAX_CHUNK_CHARS)
        if not (flush and end == self.received):
            end = self._boundary(end)
        for match in self._matches:
            if match.start < end < match.end:
                return match.start if match.start > self.checked else match.end
        return end

    def _boundary(self, end: int) -> int:
        """The last sentence end, else word end, in the second half of the new text; `end` when there is none."""
        middle = (self.checked + end + 1) // 2
        for pattern in (_SENTENCE_END, _WORD_END):
            ends = [found.end() for found in pattern.finditer(self._text, middle, end)]
            if ends:
                return ends[-1]
        return end
