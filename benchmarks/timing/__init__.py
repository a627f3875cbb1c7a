"""How the benchmarks time work in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_s(work: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time that `work` takes, in the best of `rounds`."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best
