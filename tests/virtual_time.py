"""An event loop whose clock jumps to the next timer instead of waiting, and that can cancel a task at any step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Counts its steps; when step `cancel_at` is reached, the main task is cancelled."""

    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.steps = 0
        self.main: asyncio.Task[Any] | None = None
        self._cancel_at = cancel_at
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if self.steps == self._cancel_at and self.main is not None:
            self.main.cancel()
        self.steps += 1
        ready: Any = getattr(self, "_ready")  # noqa: B009 -- private to asyncio, and typed nowhere
        scheduled: Any = getattr(self, "_scheduled")  # noqa: B009
        if not ready and scheduled:
            self._now_s = max(self._now_s, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


class Survivors(AssertionError):
    """Tasks were left when the main one had ended."""


async def _let_finalizers_run() -> None:
    """asyncio closes a generator that was dropped half-way in a task of its own."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(main: Coroutine[Any, Any, T], *, cancel_at: int | None = None) -> tuple[T | None, VirtualTimeLoop]:
    """Runs `main` in virtual time; gives its result (None when cancelled) and the loop.

    Raises Survivors when any task outlives it by more than ten steps.
    """
    loop = VirtualTimeLoop(cancel_at)
    try:
        loop.main = loop.create_task(main)
        try:
            result = loop.run_until_complete(loop.main)
        except asyncio.CancelledError:
            result = None
        loop.run_until_complete(_let_finalizers_run())
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if left:
            raise Survivors(repr(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        return result, loop
    finally:
        loop.close()
