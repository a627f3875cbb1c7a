"""The embedded guard with its encoder on vLLM servers: token ids go out, the states of the pieces come back.

Tokenising, the categories' vectors, the head and the calibration stay in this process, so a server holds the part that
takes the time and nothing of a policy. It serves the folder that `guardmw guard export` writes. The route is vLLM's
``/pooling`` with the task ``token_embed`` (https://docs.vllm.ai/en/latest/models/pooling_models).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardmw.errors import GuardAnswerError, GuardConfigError, GuardError, GuardTimeoutError
from guardmw.guard.embedded import CLOSED, EmbeddedGuard, Judged, _PolicyVectors
from guardmw.guard.encoder import Encoded, Window, sequence
from guardmw.guard.endpoints import endpoints
from guardmw.guard.resilience import ends_at_s
from guardmw.guard.served import encoder_name
from guardmw.guard.wire import Deadline, Wire
from guardmw.guard.wordpiece import WordPiece
from guardmw.policy.schema import Policy
from guardmw.types import Check

if TYPE_CHECKING:
    import httpx

    from guardmw.guard.encoder import Vectors

__all__ = ["RemoteEmbeddedGuard", "RemoteEncoder", "StateServers"]

MAX_WORKERS = 32
"""Threads that wait for servers."""
PREPARING_S = 30.0
"""How long encoding a policy's categories may wait for each answer, outside any check."""
ANOTHER_ENCODER = (
    "it must serve the encoder that belongs to this guard's head: `guardmw guard export --out FOLDER`, then "
    "`guardmw guard serve --model FOLDER`"
)


class RemoteEmbeddedGuard(EmbeddedGuard):
    """The embedded guard, its encoder served at `urls` (one or several replicas, as `VllmGuard` takes them).

    `weights` is the folder of weights whose head scores here (None: the bundled one); servers of another encoder are
    refused. `api_key` is sent as bearer token, `transport` replaces the network, for tests. Verdicts are those of
    `EmbeddedGuard` within the rounding of its int8 arithmetic, under a version of their own.

    Raises GuardConfigError when a URL or the weights can't be used, or httpx is missing. A check also raises
    GuardTimeoutError, GuardConnectionError, GuardOverloadedError, GuardAnswerError and GuardConfigError as the servers
    give reason to; see `guardmw.errors`.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        weights: Path | None = None,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(weights)
        manifest = self._model.manifest
        self._servers = StateServers(
            urls, encoder_name(manifest.files["encoder.onnx"].sha256), manifest.dimensions, api_key, transport
        )
        self._model = copy.copy(self._model)
        self._model.encoder = RemoteEncoder(self._servers, self._model.words)  # type: ignore[assignment]
        self._policies = _PolicyVectors(self._model)
        self._pool = ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="guardmw-remote")
        self.version = f"{manifest.version}/served"

    async def aclose(self) -> None:
        """Stop the threads, close the connections; checks still waiting fail with GuardError. May be called twice."""
        await super().aclose()
        self._servers.close()

    def _work(self, check: Check, policy: Policy, abandoned: threading.Event) -> Callable[[], Judged]:
        until_s = time.monotonic() + ends_at_s(check, policy) - asyncio.get_running_loop().time()
        judge = super()._work(check, policy, abandoned)

        def judge_in_time() -> Judged:
            with self._servers.until(until_s, policy.limits.deadline_ms / 1000):
                return judge()

        return judge_in_time


class RemoteEncoder:
    """Takes the place of `guardmw.guard.encoder.TextEncoder`."""

    def __init__(self, servers: StateServers, words: WordPiece) -> None:
        self.words = words
        self._servers = servers

    def encode(self, windows: Sequence[Window]) -> Encoded:
        """The states of the windows' pieces, as `TextEncoder.encode` gives them."""
        import numpy as np

        states = self._servers.states([sequence(window, self.words) for window in windows])
        longest, dimensions = max(map(len, states)), states[0].shape[1]
        tokens = np.zeros((len(states), longest, dimensions), dtype=np.float32)
        judged = np.zeros((len(states), longest), dtype=np.float32)
        for row, (window, state) in enumerate(zip(windows, states, strict=True)):
            tokens[row, : len(state)] = state
            judged[row, 1 : len(window.content) + 1] = 1
        return Encoded(tokens, judged, tuple(window.content for window in windows))


class StateServers:
    """Servers that give the last hidden states (pieces x `dimensions`) of sequences of token ids as model `model`.

    Blocking, for worker threads; safe to call from many. The connections live on an event loop in a thread of its own,
    started with the first call.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str,
        dimensions: int,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        keyed = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._wire = Wire(endpoints(urls), keyed, transport)
        self._model, self._dimensions = model, dimensions
        self._calls = count()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._closed = False

    @contextmanager
    def until(self, until_s: float, allowed_s: float) -> Iterator[None]:
        """Calls of this thread inside the block must all be answered by `until_s` (of `time.monotonic`); `allowed_s` is
        how long there was in all."""
        self._own.until_s, self._own.allowed_s = until_s, allowed_s
        try:
            yield
        finally:
            del self._own.until_s

    def states(self, sequences: Sequence[Sequence[int]]) -> list[Vectors]:
        """The states of each of `sequences`. Raises GuardError of the kind that `Wire.post` names."""
        until_s = getattr(self._own, "until_s", None)
        allowed_s = PREPARING_S if until_s is None else self._own.allowed_s
        left_s = allowed_s if until_s is None else until_s - time.monotonic()
        if left_s <= 0:
            raise GuardTimeoutError(str(self._wire), allowed_s)
        answer = self._running().result(self._ask(sequences, left_s, allowed_s))
        return _states(answer, [len(sequence) for sequence in sequences], self._dimensions)

    def close(self) -> None:
        """Close the connections; calls under way end with GuardError. May be called twice."""
        with self._lock:
            self._closed, loop, self._loop = True, self._loop, None
        if loop is not None:
            loop.stop()

    def _running(self) -> _Loop:
        with self._lock:
            if self._closed:
                raise GuardError(CLOSED)
            if self._loop is None:
                self._loop = _Loop(self._wire)
            return self._loop

    async def _ask(self, sequences: Sequence[Sequence[int]], left_s: float, allowed_s: float) -> dict[str, Any]:
        deadline = Deadline(asyncio.get_running_loop().time() + left_s, allowed_s)
        body = {
            "model": self._model, "input": [list(sequence) for sequence in sequences], "task": "token_embed",
            "use_activation": False, "encoding_format": "base64", "embed_dtype": "float32", "endianness": "little",
        }  # fmt: skip
        try:
            answer, _ = await self._wire.post(
                "/pooling", body, key=str(next(self._calls)), deadline=deadline, headers={}
            )
        except GuardConfigError as error:
            raise GuardConfigError(f"{error}; {ANOTHER_ENCODER}") from error
        return answer


class _Loop:
    """An event loop in a daemon thread; closes the connections of `wire` when it is stopped."""

    def __init__(self, wire: Wire) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(wire)), name="guardmw-remote", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    async def _live(self, wire: Wire) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._over.wait()
        await wire.aclose()

    def result(self, work: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (CancelledError, RuntimeError) as error:
            work.close()
            raise GuardError(CLOSED) from error
        return answer

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)


def _states(answer: dict[str, Any], lengths: Sequence[int], dimensions: int) -> list[Vectors]:
    listed = answer.get("data")
    if not isinstance(listed, list) or len(listed) != len(lengths):
        got = len(listed) if isinstance(listed, list) else "no"
        raise GuardAnswerError(f"the encoder's server answered with {got} results for {len(lengths)} texts")
    return [_state(each, length, dimensions) for each, length in zip(listed, lengths, strict=True)]


def _state(part: Any, length: int, dimensions: int) -> Vectors:
    """One text's states. Raises GuardAnswerError when they are not `length` x `dimensions` finite numbers."""
    import numpy as np

    try:
        numbers: Vectors = np.frombuffer(base64.b64decode(part["data"], validate=True), "<f4")
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise GuardAnswerError(f"the encoder's server answered with no vectors ({error!r}); is it vLLM's?") from error
    if numbers.size != length * dimensions or not np.isfinite(numbers).all():
        raise GuardAnswerError(
            f"the encoder's server answered with {numbers.size} numbers for {length} word pieces, expected are "
            f"{length} x {dimensions} finite ones; {ANOTHER_ENCODER}"
        )
    return numbers.reshape(length, dimensions)
