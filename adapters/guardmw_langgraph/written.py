"""What a tool writes to the graph's streams while it runs: judged before anybody reads it.

Texts go through the stream gate, joined in the order they were written; anything else (a dict that tells of progress)
is judged whole, in its place, as the continuation of what was shown before it. A tool doesn't wait for any of this.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from contextvars import copy_context
from threading import Lock
from typing import Any, Final
from uuid import uuid4

from guardmw.policy.escapes import detected
from guardmw.policy.schema import Policy
from guardmw.stream.gate import guard_stream
from guardmw.stream.items import Blocked, Delta, Opaque, Released, Text
from guardmw.types import Check, Decision, ToolCall
from guardmw_langgraph.contents import texts_in
from guardmw_langgraph.internals import Write, with_writers
from guardmw_langgraph.screen import cut
from guardmw_langgraph.seam import Seam

logger = logging.getLogger("guardmw.tools")

MAX_WAITING = 10_000
"""So much may be written and not judged yet; what comes beyond it is not shown, and the log says so."""

_END = object()

_NUMBERS: Final = (bool, float, int, type(None))


class Writers:
    """The gated writers of one run of a tool, whose streams are judged in `loop`."""

    def __init__(self, seam: Seam, call: ToolCall, loop: asyncio.AbstractEventLoop) -> None:
        self._seam, self._call, self._loop = seam, call, loop
        self._gated: dict[int, tuple[Write, _Stream]] = {}

    @contextmanager
    def installed(self, kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`kwargs` for the tool, and a context for it, from which it can't reach an ungated writer."""
        with with_writers(self._behind_gate, kwargs) as replaced:
            yield replaced

    def _behind_gate(self, write: Write) -> Write:
        if isinstance(write, _Stream):  # of the tool that called this one: judged there
            return write
        known = self._gated.get(id(write))
        if known is None:
            known = self._gated[id(write)] = write, _Stream(self._seam, self._call, write, self._loop)
        return known[1]

    def cancel(self) -> None:
        for _, stream in self._gated.values():
            stream.cancel()

    async def flushed(self) -> None:
        """Waits until all that was written is judged, and shown if it may be."""
        await asyncio.gather(*(asyncio.wrap_future(one) for one in self._ended()))

    def flush(self) -> None:
        """As `flushed`, for a thread in which no event loop runs."""
        for one in self._ended():
            one.result()

    def _ended(self) -> list[Future[None]]:
        return [future for _, stream in self._gated.values() if (future := stream.end()) is not None]


class _Stream:
    """A writer that a tool calls, in any thread; what it says comes out of `write` once it was judged."""

    def __init__(self, seam: Seam, call: ToolCall, write: Write, loop: asyncio.AbstractEventLoop) -> None:
        self._seam, self._call, self._loop = seam, call, loop
        self._context = copy_context()  # the graph's writers look into it for the graph they belong to
        self._write = write
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()
        self._lock = Lock()
        self._pumping: Future[None] | None = None
        self._open = True
        self._count = 0
        self._id = uuid4().hex
        self._shown = ""

    def __call__(self, payload: Any) -> None:
        with self._lock:
            if not self._open:
                return
            if self._pumping is None:
                self._pumping = asyncio.run_coroutine_threadsafe(self._pump(), self._loop)
            self._count += 1
            if self._count > MAX_WAITING:
                self._open = False
                logger.error("the tool %r writes faster than it can be judged; the rest is not shown", self._call.name)
                return
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, payload)

    def end(self) -> Future[None] | None:
        """Lets in nothing more; the future of all that was written, None when nothing was."""
        with self._lock:
            self._open = False
            if self._pumping is not None:
                self._loop.call_soon_threadsafe(self._waiting.put_nowait, _END)
            return self._pumping

    def cancel(self) -> None:
        with self._lock:
            self._open = False
            if self._pumping is not None:
                self._pumping.cancel()

    async def _pump(self) -> None:
        agent = self._seam.agent
        policy = await self._seam.checker.policy_for(agent)
        gate = guard_stream(
            self._deltas(), self._seam.checker, policy, agent=agent, calls=(self._call,), origin="stream"
        )  # fmt: skip
        async with aclosing(gate) as items:
            async for item in items:
                match item:
                    case Released():
                        self._show(item.text)
                    case Opaque() if await self._other(item.payload, policy, agent):
                        continue
                    case Blocked():
                        self._cut(item.decision, policy)
                        return
                    case _:
                        return

    async def _deltas(self) -> AsyncGenerator[Delta, None]:
        while (payload := await self._waiting.get()) is not _END:
            with self._lock:
                self._count -= 1
            yield Text("tool_result", payload) if isinstance(payload, str) else Opaque(payload)

    async def _other(self, payload: Any, policy: Policy, agent: str) -> bool:
        """Shows a payload that is no text, as far as it may be seen; False when the stream ends here."""
        if type(payload) in _NUMBERS:
            self._emit(payload)
            return True
        text, start = _as_json(payload), len(self._shown)
        check = Check(
            "tool_result", self._shown + text, agent, calls=(self._call,), origin="stream",
            stream_id=self._id, offset_chars=start,
        )  # fmt: skip
        matches = detected(policy, check.surface, check.content, escaped=True)
        decision = await self._seam.checker.check(check, policy=policy, matches=matches)
        if decision.withheld:
            self._cut(decision, policy)
            return False
        shown = cut(text, start, decision.redactions) if decision.enforced == "redact" else text
        emitted = payload if shown == text and _is_plain(payload) else _loaded(shown)
        self._shown += "\n".join(texts_in(emitted)) or shown
        self._emit(emitted)
        return True

    def _cut(self, decision: Decision, policy: Policy) -> None:
        with self._lock:
            self._open = False
        why = decision.why if policy.tools.results.blocked != "refusal" else "it may not be shown"
        self._emit(f"[What {self._call.name!r} writes is withheld from here on by the policy {policy.id!r}: {why}.]")

    def _show(self, text: str) -> None:
        self._shown += text
        if text:
            self._emit(text)

    def _emit(self, payload: Any) -> None:
        self._context.run(self._write, payload)


def _as_json(payload: Any) -> str:
    try:
        return json.dumps(payload, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(payload)


def _is_plain(payload: Any) -> bool:
    """Whether `payload` is what JSON can say and nothing more: an object may hold, and show, what nobody judged."""
    waiting = [payload]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            waiting += [*one.keys(), *one.values()]
        elif type(one) in (list, tuple):
            waiting += one
        elif type(one) is not str and type(one) not in _NUMBERS:
            return False
    return True


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
