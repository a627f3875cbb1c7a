"""Where decisions go: one protocol, called exactly once per decision."""

from __future__ import annotations

from collections import deque
from typing import Protocol, runtime_checkable

from guardmw.types import Decision


@runtime_checkable
class Recorder(Protocol):
    """Takes every decision once. `record` is called on the event loop: it must return at once and not raise."""

    def record(self, decision: Decision) -> None: ...


class MemoryRecorder:
    """Keeps the newest `limit` decisions in memory, oldest first."""

    def __init__(self, limit: int = 10_000) -> None:
        self._decisions: deque[Decision] = deque(maxlen=limit)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(self._decisions)

    def record(self, decision: Decision) -> None:
        self._decisions.append(decision)
