"""The embedded guard: a small policy-conditioned model in this process, on the CPU, without a download.

The content is encoded once and every category of the policy once (when the policy is first seen); a head scores the
pairs, so a category that nobody trained on is judged by its description. See `docs/embedded-guard.md`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from guardmw.errors import GuardAnswerError, GuardError
from guardmw.guard.encoder import BATCH, Encoded, Model, load_model
from guardmw.guard.precedents import Cases, Precedents, bearing
from guardmw.guard.reading import check_windows
from guardmw.policy.schema import Category, Policy
from guardmw.types import SURFACES, Check, Finding, Surface, TokenUsage, Verdict

if TYPE_CHECKING:
    from guardmw.guard.calibration import Calibration
    from guardmw.guard.encoder import Vectors

__all__ = ["EmbeddedGuard", "category_text", "surface_vector"]

Judged: TypeAlias = tuple[tuple[Finding, ...], int]
"""Findings, and how many word pieces were read for them."""

CLOSED = "the embedded guard is closed; build a new one"
CACHED_POLICIES = 64
MAX_WORKERS = 4


class EmbeddedGuard:
    """A guard of 22 million parameters that ships with guardmw.

    `weights` is a folder written by ``guardmw train embedded`` (None: the bundled one). `threads` is how many threads
    one inference may use; several checks run beside each other on further threads, up to the machine's cores.

    Every check gives one finding per category of the policy on the check's surface, with a calibrated probability.
    A text longer than the model's window is read in overlapping windows, and the highest probability counts. A later
    check of a stream (``offset_chars`` above 0) reads its new text and a little before it, since the rest was judged
    by the stream's earlier checks: what a check costs depends on its new text alone.

    Raises GuardConfigError when the weights are missing, damaged or unreadable.
    """

    name = "embedded"

    def __init__(self, weights: Path | None = None, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._model = load_model(weights or bundled_weights(), threads)
        self.version = self._model.manifest.version
        self._policies = _PolicyVectors(self._model)
        workers = max(1, min(MAX_WORKERS, (os.cpu_count() or 1) // threads))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="guardmw-embedded")
        self._closed = threading.Event()

    def prepare(self, policy: Policy) -> None:
        """Begin to encode the policy's categories on a worker thread, so that the first check needn't wait for it."""
        if not self._closed.is_set():
            self._pool.submit(self._policies.of, policy)

    async def check(self, check: Check, policy: Policy) -> Verdict:
        """Judge `check`. Cancelling returns at once; the inference behind it stops at its next window.

        Raises GuardAnswerError when the model gives no finite number, GuardError when the guard is closed or the
        inference fails.
        """
        started, abandoned = time.perf_counter(), threading.Event()
        try:
            findings, pieces = await self._submit(check, policy, abandoned)
        except GuardError:
            raise
        except Exception as error:
            raise GuardError(f"the embedded guard failed: {error}") from error
        finally:
            abandoned.set()
        return Verdict(
            findings, self.name, self.version, TokenUsage(prompt=pieces), duration_s=time.perf_counter() - started
        )

    async def _submit(self, check: Check, policy: Policy, abandoned: threading.Event) -> Judged:
        if self._closed.is_set():
            raise GuardError(CLOSED)
        work = self._pool.submit(self._work(check, policy, abandoned))
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed.is_set() and not (task and task.cancelling()):
                # Closing cancelled the work, nobody the caller.
                raise GuardError(CLOSED) from None
            raise

    async def aclose(self) -> None:
        """Stop the threads; checks still waiting fail with GuardError. May be called twice."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, check: Check, policy: Policy, abandoned: threading.Event) -> Callable[[], Judged]:
        """What a worker thread is to do; called on the event loop."""
        return partial(self._judge, check, policy, abandoned)

    def _judge(self, check: Check, policy: Policy, abandoned: threading.Event) -> Judged:
        categories = policy.categories_on(check.surface)
        windows = check_windows(check, self._model)
        if not categories or not windows:
            return tuple(self._finding(category, 0.0) for category in categories), 0
        vectors = self._policies.of(policy).on(check.surface)
        highest = [float("-inf")] * len(categories)
        for start in range(0, len(windows), BATCH):
            if abandoned.is_set() or self._closed.is_set():
                raise GuardError(CLOSED)
            read = self._model.encoder.encode(windows[start : start + BATCH])
            logits = vectors.logits(self._model, read, check.surface)
            highest = list(map(max, highest, logits.max(axis=0).tolist()))
        calibration = self._model.manifest.calibration_on(check.surface)
        probabilities = [_probability(logit, calibration) for logit in highest]
        pieces = sum(len(window.content) + len(window.context) for window in windows)
        return tuple(map(self._finding, categories, probabilities)), pieces

    def _finding(self, category: Category, probability: float) -> Finding:
        return Finding(category.id, probability, f"guard:{self.name}")


def _probability(logit: float, calibration: Calibration) -> float:
    try:
        return calibration.probability(logit)
    except ValueError as error:
        raise GuardAnswerError(f"the embedded guard gave no probability: {error}") from error


def bundled_weights() -> Path:
    """The folder of the weights inside the package."""
    return Path(str(resources.files("guardmw") / "weights"))


def category_text(category: Category) -> str:
    """What stands for a category before the encoder. `safe_when` is left out: sentence encoders read over negations,
    and an exception would only make the category look more like the text it excepts."""
    return f"{category.title}. {category.unsafe_when}"


def surface_vector(surface: Surface) -> list[float]:
    """One-hot over the surfaces, in the order of `guardmw.types.SURFACES`."""
    return [float(surface == other) for other in SURFACES]


@dataclass(frozen=True)
class CategoryVectors:
    """Some categories as the head takes them: their vectors, and their precedents by label."""

    categories: Vectors
    unsafe: Precedents
    safe: Precedents

    def logits(self, model: Model, read: Encoded, surface: Surface) -> Vectors:
        """One logit for each of the windows `read` (rows) under each category (columns)."""
        import numpy as np

        texts = read.vectors
        close = self.unsafe.closeness(texts), self.safe.closeness(texts)
        scored = model.score(
            tokens=read.tokens,
            mask=read.mask,
            categories=self.categories,
            unsafe=self.unsafe.nearest(close[0]),
            safe=self.safe.nearest(close[1]),
            surface=np.array(surface_vector(surface), dtype=np.float32),
        )
        return scored + bearing(read, self.unsafe, self.safe, close)


class _PolicyVectors:
    """The vectors of policies, encoded when first asked for; the `CACHED_POLICIES` last used are kept."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kept: OrderedDict[str, Future[PolicyVectors]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, policy: Policy) -> PolicyVectors:
        """Called on worker threads: whoever comes second waits for the first one's encoding."""
        with self._lock:
            future = self._kept.get(policy.hash)
            if mine := future is None:
                future = self._kept[policy.hash] = Future()
            self._kept.move_to_end(policy.hash)
            while len(self._kept) > CACHED_POLICIES:
                self._kept.popitem(last=False)
        if mine:
            self._encode(policy, future)
        return future.result()

    def _encode(self, policy: Policy, future: Future[PolicyVectors]) -> None:
        try:
            future.set_result(PolicyVectors(self._model, policy))
        except BaseException as error:
            # The next check of this policy tries again.
            with self._lock:
                self._kept.pop(policy.hash, None)
            future.set_exception(error)


class PolicyVectors:
    """All categories of one policy, encoded."""

    def __init__(self, model: Model, policy: Policy) -> None:
        texts = model.encode_texts(map(category_text, policy.categories))
        cases = Cases(model)
        self._on = {}
        for surface in SURFACES:
            judged = policy.categories_on(surface)
            rows = [row for row, category in enumerate(policy.categories) if category in judged]
            room = model.manifest.windows.room_on(surface)
            unsafe, safe = (
                Precedents([
                    cases.of((case.text for case in category.precedents if case.label == label), room)
                    for category in judged
                ])
                for label in ("unsafe", "safe")
            )  # fmt: skip
            self._on[surface] = CategoryVectors(texts[rows], unsafe, safe)

    def on(self, surface: Surface) -> CategoryVectors:
        return self._on[surface]
