"""The way of `invoke`, `stream` and `batch` into code that is async: one event loop in a thread, shared by all."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")

READ_AHEAD = 64
CLOSE_TIMEOUT_S = 5.0

_END = object()


class _LoopThread:
    """An event loop in a daemon thread, started when first needed and once more in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = -1

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Starts `coroutine` there, with the caller's context. Raises RuntimeError on the loop's own thread."""
        loop = self.running()
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(
                "a guarded model or tool was called synchronously from inside a guard, a tool or a model that guardmw "
                "runs for a synchronous caller; that would wait for itself. Use `ainvoke` or `astream` there."
            )
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(target=self._loop.run_forever, name="guardmw", daemon=True)
                self._thread.start()
            return self._loop


_thread = _LoopThread()


def loop() -> asyncio.AbstractEventLoop:
    """The shared event loop, running in its thread."""
    return _thread.running()


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of `coroutine`, run in the shared loop. It is cancelled when the wait is interrupted.

    Blocks the calling thread, and a loop running in it, as every synchronous call does.
    """
    future = _thread.submit(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(source: AsyncGenerator[Item, None]) -> Iterator[Item]:
    """The items of `source` as they come, run in one task of the shared loop.

    Closing this closes `source` and waits until that is done, for `CLOSE_TIMEOUT_S` at most.
    """
    relay: _Relay[Item] = _Relay(source)
    future = _thread.submit(relay.pump())
    future.add_done_callback(lambda _: relay.items.put(_END))
    try:
        while (item := relay.items.get()) is not _END:
            yield item
            relay.taken()
        future.result()
    finally:
        if future.cancel():
            relay.closed.wait(CLOSE_TIMEOUT_S)


class _Relay(Generic[Item]):
    """Hands items from the loop to a thread, `READ_AHEAD` at most before they are taken."""

    def __init__(self, source: AsyncGenerator[Item, None]) -> None:
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.closed = threading.Event()
        self._source = source
        self._room = asyncio.Semaphore(READ_AHEAD)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def pump(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async for item in self._source:
                await self._room.acquire()
                self.items.put(item)
        finally:
            await self._source.aclose()
            self.closed.set()

    def taken(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._room.release)
