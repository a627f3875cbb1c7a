"""The async loop round the windows: reads ahead, judges one chunk at a time, releases in order.

While one chunk is judged the next one arrives, so a guard as fast as the source adds one verdict of delay, once. A
slow guard makes larger chunks, never a queue. When the source ends, a check in flight that doesn't cover the whole
text is superseded by the last one, which does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

from opentelemetry.context import Context

from guardmw.checker import Checker
from guardmw.policy.detectors import detectors_for
from guardmw.policy.schema import Policy
from guardmw.stream.items import Blocked, Delta, Item, Opaque, Released, StreamSurface, Text
from guardmw.stream.stats import StreamStats
from guardmw.stream.window import MAX_CHUNK_CHARS, Chunk, ReleaseMode, StreamWindow
from guardmw.telemetry.record import StreamSpan
from guardmw.types import Check, Decision, Message, Origin, ToolCall

__all__ = ["Blocked", "Delta", "Item", "Opaque", "Released", "Text", "guard_stream"]

logger = logging.getLogger("guardmw.stream")

MAX_READ_AHEAD_CHARS = 1 << 20
"""How much unreleased text a stream reads ahead of a consumer that doesn't take it."""

CLOSE_TIMEOUT_S = 1.0
"""How long a stream waits for its source to close: then the replacement is shown, or the stream ended, anyway."""


def guard_stream(
    source: AsyncIterator[Delta],
    checker: Checker,
    policy: Policy,
    *,
    agent: str,
    conversation: tuple[Message, ...] = (),
    calls: tuple[ToolCall, ...] = (),
    origin: Origin | None = None,
    parent: Context | None = None,
) -> AsyncGenerator[Item, None]:
    """Guards one answer of a model: yields what may be shown, in the order of the source.

    Nothing is lost or added: when every check allows, the released texts of a surface joined equal its deltas joined.
    After a block the source is closed, one `Blocked` is yielded, and the stream ends. Errors of the source are raised
    after everything received before them was judged and released. Closing or cancelling the generator closes the
    source and ends every task. `parent` is the trace context (None: the current one).
    """
    stream = _GuardedStream(checker, policy, agent=agent, conversation=conversation, calls=calls, origin=origin)
    return stream.run(source, parent)


@dataclass(slots=True)
class _Run:
    """Consecutive text of one surface, up to position `end` of it."""

    surface: StreamSurface
    end: int


def _extend(runs: deque[_Run] | deque[_Run | Opaque], surface: StreamSurface, end: int) -> bool:
    """Notes that `surface` now reaches `end`; True when that begins a new run."""
    last = runs[-1] if runs else None
    if isinstance(last, _Run) and last.surface == surface:
        last.end = end
        return False
    runs.append(_Run(surface, end))
    return True


class _GuardedStream:
    """The state of one stream: a window per surface, the order of arrival across them, the check in flight."""

    def __init__(
        self,
        checker: Checker,
        policy: Policy,
        *,
        agent: str,
        conversation: tuple[Message, ...],
        calls: tuple[ToolCall, ...],
        origin: Origin | None,
    ) -> None:
        self._checker, self._policy, self._agent = checker, policy, agent
        self._conversation, self._calls, self._origin = conversation, calls, origin
        self._id = uuid4().hex
        self._mode: ReleaseMode = "shadow" if policy.mode == "shadow" else policy.streaming.mode
        self._windows: dict[StreamSurface, StreamWindow] = {}
        self._unreleased: deque[_Run | Opaque] = deque()
        self._unjudged: deque[_Run] = deque()
        self._unreleased_chars = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._reader: asyncio.Task[None] | None = None
        self._check: asyncio.Task[Decision] | None = None
        self._chunk: tuple[StreamSurface, Chunk] | None = None
        self._stats = StreamStats()

    async def run(self, source: AsyncIterator[Delta], parent: Context | None) -> AsyncGenerator[Item, None]:
        self._loop = asyncio.get_running_loop()
        self._stats.begin(self._loop.time())
        # Ended in `finally`, never made current: a current span would leak into the consumer at every yield.
        self._span = StreamSpan.start(self._agent, self._policy, self._id, parent)
        self._reader = self._loop.create_task(self._read(source))
        blocked: Blocked | None = None
        error: BaseException | None = None
        try:
            while True:
                for item in self._releasable():
                    yield item
                self._start_check()
                if self._ended and not self._unreleased and not self._unjudged:
                    break
                await self._something()
                blocked = self._take_verdict()
                if blocked is not None:
                    await asyncio.wait({self._reader}, timeout=CLOSE_TIMEOUT_S)
                    yield blocked
                    return
            if self._failure is not None:
                raise self._failure
        except BaseException as failure:
            error = failure if blocked is None else None
            raise
        finally:
            await self._stop()
            self._stats.end(self._span, self._windows, error)

    async def _read(self, source: AsyncIterator[Delta]) -> None:
        try:
            async for item in source:
                self._take(item)
                if self._unreleased_chars > MAX_READ_AHEAD_CHARS:
                    self._room.clear()
                    await self._room.wait()
        except BaseException as failure:
            if self._stopping:
                raise
            self._failure = failure
        finally:
            self._ended = True
            self._wake.set()
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _take(self, item: Delta) -> None:
        if isinstance(item, Opaque):
            self._unreleased.append(item)
            if len(self._unreleased) == 1:
                self._wake.set()
            return
        if not item.text:
            return
        window = self._window(item.surface)
        now_s = self._loop.time()
        window.push(item.text, now_s)
        self._unreleased_chars += len(item.text)
        _extend(self._unreleased, item.surface, window.received)
        began = _extend(self._unjudged, item.surface, window.received)
        if began or self._mode != "hold" or (self._check is None and window.due(now_s)):
            self._wake.set()

    def _window(self, surface: StreamSurface) -> StreamWindow:
        window = self._windows.get(surface)
        if window is None:
            detectors = detectors_for(self._policy, surface)
            window = self._windows[surface] = StreamWindow(self._policy.streaming, detectors, self._mode)
        return window

    def _releasable(self) -> Iterator[Item]:
        while self._unreleased:
            head = self._unreleased[0]
            if isinstance(head, Opaque):
                self._unreleased.popleft()
                yield head
                continue
            window = self._windows[head.surface]
            for segment in window.release(head.end):
                self._unreleased_chars -= segment.end - segment.start
                self._stats.released(segment.text, self._loop.time())
                yield Released(head.surface, segment.start, segment.end, segment.text)
            if self._unreleased_chars <= MAX_READ_AHEAD_CHARS:
                self._room.set()
            if window.released < head.end:
                return
            self._unreleased.popleft()

    def _start_check(self) -> None:
        """Starts judging the next chunk, when none is being judged and one is due."""
        if self._check is not None:
            self._supersede()
            return
        due = self._next_due()
        if due is None:
            return
        surface, flush = due
        chunk = self._windows[surface].next_chunk(flush=flush)
        if chunk is None:
            return
        self._chunk = surface, chunk
        self._stats.windows += 1
        self._check = self._loop.create_task(self._judge(surface, chunk))
        self._check.add_done_callback(lambda _: self._wake.set())

    def _next_due(self) -> tuple[StreamSurface, bool] | None:
        """The surface to judge next, and whether it has ended for now: the first one with unjudged text."""
        while self._unjudged and self._windows[self._unjudged[0].surface].checked >= self._unjudged[0].end:
            self._unjudged.popleft()
        if not self._unjudged:
            return None
        surface = self._unjudged[0].surface
        flush = self._ended or len(self._unjudged) > 1
        full = self._unreleased_chars > MAX_READ_AHEAD_CHARS
        return (surface, flush) if flush or full or self._windows[surface].due(self._loop.time()) else None

    def _supersede(self) -> None:
        """Cancels a check in flight that the source's end has made the last but one."""
        if self._ended and self._chunk is not None and self._check is not None:
            surface, chunk = self._chunk
            if not chunk.final and chunk.end < self._windows[surface].received <= chunk.start + MAX_CHUNK_CHARS:
                self._check.cancel()

    async def _judge(self, surface: StreamSurface, chunk: Chunk) -> Decision:
        check = Check(
            surface, chunk.text, self._agent,
            conversation=self._conversation, calls=self._calls,
            stream_id=self._id, offset_chars=chunk.start, final=chunk.final, origin=self._origin,
        )  # fmt: skip
        decision = await self._checker.check(
            check, policy=self._policy, matches=chunk.matches, parent=self._span.context
        )
        if decision.withheld and self._reader is not None:
            self._stopping = True
            self._reader.cancel()
        return decision

    async def _something(self) -> None:
        """Waits for text, a verdict, the end of the source, or until waiting text has waited long enough."""
        due_at_s = None if self._check is not None else min(
            (at_s for window in self._windows.values() if (at_s := window.due_at_s()) is not None), default=None
        )  # fmt: skip
        timer = None if due_at_s is None else self._loop.call_at(due_at_s, self._wake.set)
        try:
            await self._wake.wait()
            self._wake.clear()
        finally:
            if timer is not None:
                timer.cancel()

    def _take_verdict(self) -> Blocked | None:
        if self._check is None or self._chunk is None or not self._check.done():
            return None
        check, (surface, chunk) = self._check, self._chunk
        self._check = self._chunk = None
        if check.cancelled():
            return None
        decision = check.result()
        self._stats.decided(decision, chunk)
        if decision.withheld:
            message = self._policy.messages
            return Blocked(decision, message.unavailable if decision.verdict.error else message.blocked)
        since_s = self._windows[surface].clear(chunk, decision.redactions)
        self._stats.held(since_s, self._loop.time())
        return None

    async def _stop(self) -> None:
        """Ends every task; one that won't be ended is left behind after `CLOSE_TIMEOUT_S`, and said aloud."""
        self._stopping = True
        tasks = {task for task in (self._check, self._reader) if task is not None}
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        if left:
            logger.error("stream %s: the source or the guard doesn't end when cancelled; it was left behind", self._id)
