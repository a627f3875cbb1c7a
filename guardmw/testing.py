"""Fakes for testing what is guarded: a guard, a scripted streaming chat model, and helpers for streams.

    guard = FakeGuard(unsafe="ACME")
    model = ScriptedChatModel(["Put it all into ACME."])
    agent = create_agent(model, [], middleware=[GuardMiddleware(policy, guard=guard)])

`ScriptedChatModel` needs langchain-core (`pip install guardmw[langgraph]`) and is loaded when it is first asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, assert_never, cast

from guardmw.errors import GuardConnectionError
from guardmw.policy.schema import Policy
from guardmw.types import Check, Finding, Verdict

if TYPE_CHECKING:
    from guardmw_langgraph.scripted import ScriptedChatModel

__all__ = ["FakeGuard", "ScriptedChatModel", "collect", "deltas", "paced"]

Item = TypeVar("Item")
Failure = Literal["error", "hang", "garbage"]
"""`error` raises GuardConnectionError, `hang` never answers, `garbage` answers with something that is no Verdict."""

UNSAFE, SAFE = 0.99, 0.01


class FakeGuard:
    """A guard whose answers are known beforehand.

    `unsafe` says which contents violate: a text to look for, a pattern to search, or a function from the content to a
    probability; None finds everything safe. Every category of the policy on the check's surface gets a finding; the
    first one carries the hit (0.99 or 0.01, or the function's number), the others 0.01.

    `latency_s` passes before each answer. With `fail` the guard fails, from the first check on or once it has
    answered `fail_after` of them. `checks` lists what it was asked, in order of arrival; `closed` whether `aclose`
    was called. All may be changed between checks.
    """

    def __init__(
        self,
        unsafe: str | re.Pattern[str] | Callable[[str], float] | None = None,
        *,
        latency_s: float = 0.0,
        fail: Failure | None = None,
        fail_after: int = 0,
        name: str = "fake",
        version: str = "1",
    ) -> None:
        self.name, self.version = name, version
        self.unsafe, self.latency_s = unsafe, latency_s
        self.fail, self.fail_after = fail, fail_after
        self.checks: list[Check] = []
        self.closed = False

    async def check(self, check: Check, policy: Policy) -> Verdict:
        """Answers as scripted. Raises GuardConnectionError when it was told to fail with ``error``."""
        self.checks.append(check)
        if self.latency_s > 0:
            await asyncio.sleep(self.latency_s)
        if self.fail is not None and len(self.checks) > self.fail_after:
            return await self._failure(self.fail)
        return Verdict(self._findings(check, policy), self.name, self.version, duration_s=self.latency_s)

    async def aclose(self) -> None:
        self.closed = True

    def probability(self, content: str) -> float:
        """Of `content` being unsafe, in [0, 1]."""
        if callable(self.unsafe):
            return self.unsafe(content)
        return UNSAFE if self._hit(content) else SAFE

    def _hit(self, content: str) -> bool:
        if isinstance(self.unsafe, re.Pattern):
            return self.unsafe.search(content) is not None
        return isinstance(self.unsafe, str) and self.unsafe in content

    def _findings(self, check: Check, policy: Policy) -> tuple[Finding, ...]:
        hit = self.probability(check.content)
        return tuple(
            Finding(category.id, SAFE if place else hit, f"guard:{self.name}")
            for place, category in enumerate(policy.categories_on(check.surface))
        )

    async def _failure(self, fail: Failure) -> Verdict:
        match fail:
            case "error":
                raise GuardConnectionError(f"guard {self.name!r} was told to fail")
            case "hang":
                await asyncio.Event().wait()
                raise AssertionError("an event nobody sets was set")
            case "garbage":
                return cast("Verdict", "I am only a poor language model and know of no verdicts.")
        assert_never(fail)


def deltas(text: str, size: int) -> list[str]:
    """`text` cut into pieces of `size` characters (the last may be shorter), as a model would stream it."""
    if size < 1:
        raise ValueError(f"size must be 1 or more characters, not {size}")
    return [text[start : start + size] for start in range(0, len(text), size)]


async def collect(stream: AsyncIterable[Item]) -> list[Item]:
    """Everything `stream` yields, in order."""
    return [item async for item in stream]


async def paced(source: Iterable[Item] | AsyncIterable[Item], delay_s: float) -> AsyncIterator[Item]:
    """The items of `source`, each after a pause of `delay_s`; an async `source` is closed when this is."""
    if not isinstance(source, AsyncIterable):
        for item in source:
            await asyncio.sleep(delay_s)
            yield item
        return
    try:
        async for item in source:
            await asyncio.sleep(delay_s)
            yield item
    finally:
        if hasattr(source, "aclose"):
            await source.aclose()


def __getattr__(name: str) -> Any:
    if name == "ScriptedChatModel":
        from guardmw_langgraph.scripted import ScriptedChatModel

        return ScriptedChatModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
