"""What `guardmw doctor` looks at. Every examination yields results; one that raises is a failed one.

They are not async, so that files are read and packages imported outside of any event loop.
"""

from __future__ import annotations

import asyncio
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from guardmw.types import Check, Verdict

if TYPE_CHECKING:
    from guardmw.guard import Guard
    from guardmw.policy.schema import Policy

Health = Literal["ok", "warning", "failed", "skipped"]
"""`warning` works, but look at it; `skipped` could not be looked at here; only `failed` fails the doctor."""

FORBIDDEN = "xyzzy-forbidden"
SAFE_TEXT = "The parcel left our house this morning and arrives on Thursday."
TIMED_CHECKS = 15


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the doctor's report."""

    subject: str
    health: Health
    found: str


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: the names given on the command line."""

    policy: str
    guard: str


Examination = Callable[[Patient], Iterator[Result]]


def examine(patient: Patient) -> list[Result]:
    """Every examination, one after the other."""
    return [result for examination in EXAMINATIONS for result in _safely(examination, patient)]


def _safely(examination: Examination, patient: Patient) -> list[Result]:
    results: list[Result] = []
    try:
        results.extend(examination(patient))  # keeps what came before an error
    except Exception as error:
        subject = examination.__name__.removeprefix("_").replace("_", " ")
        results.append(Result(subject, "failed", f"{type(error).__name__}: {error}"))
    return results


def _python(patient: Patient) -> Iterator[Result]:
    yield Result("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Result("guardmw", "ok", metadata.version("guardmw"))


def _packages(patient: Patient) -> Iterator[Result]:
    for extra, names in _requirements().items():
        missing = [name for name in names if _version(name) is None]
        subject = f"extra {extra}" if extra else "packages"
        if not missing:
            yield Result(subject, "ok", ", ".join(f"{name} {_version(name)}" for name in names))
        elif extra:
            yield Result(subject, "skipped", f"not installed: pip install 'guardmw[{extra}]'")
        else:
            yield Result(subject, "failed", f"missing: {', '.join(missing)}; pip install guardmw again")


def _requirements() -> dict[str, list[str]]:
    """Distribution names by extra; the core ones under the empty name. The extra for developers is left out."""
    wanted: dict[str, list[str]] = {"": []}
    for requirement in metadata.requires("guardmw") or []:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        wanted.setdefault(extra[1] if extra else "", []).append(name)
    return {extra: names for extra, names in wanted.items() if extra != "dev"}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _policies(patient: Patient) -> Iterator[Result]:
    from guardmw.policy.load import bundled_ids, load_policies

    bundled = bundled_ids()
    for name in bundled:
        load_policies(name)
    yield Result("bundled policies", "ok", ", ".join(bundled))
    if patient.policy not in bundled:
        yield Result("policy", "ok", ", ".join(load_policies(patient.policy).policies))


def _guard(patient: Patient) -> Iterator[Result]:
    from guardmw.guard import resolve_guard

    started_s = time.perf_counter()
    guard = resolve_guard(patient.guard)
    loaded_s = time.perf_counter() - started_s
    policy = _policy(patient)
    first_s, *times_s = asyncio.run(_times(guard, policy))
    yield Result("guard", "ok", f"{guard.name} {guard.version}, loaded in {loaded_s * 1000:.0f} ms")
    middle_ms, worst_ms = statistics.median(times_s) * 1000, max(times_s) * 1000
    categories = len(policy.categories_on("output"))
    yield Result(
        "guard latency",
        "ok" if middle_ms <= policy.limits.deadline_ms / 4 else "warning",
        f"{middle_ms:.1f} ms a check (worst of {TIMED_CHECKS}: {worst_ms:.1f}, first: {first_s * 1000:.1f}), "
        f"{categories} categories, {len(SAFE_TEXT)} characters; the deadline is {policy.limits.deadline_ms} ms",
    )


async def _times(guard: Guard, policy: Policy) -> list[float]:
    """Seconds that each of several checks took."""
    times_s = []
    try:
        for _ in range(TIMED_CHECKS + 1):
            started_s = time.perf_counter()
            await guard.check(Check("output", SAFE_TEXT, policy=policy.ref), policy)
            times_s.append(time.perf_counter() - started_s)
    finally:
        await guard.aclose()
    return times_s


def _policy(patient: Patient) -> Policy:
    from guardmw.policy.load import load_policies

    return next(iter(load_policies(patient.policy).policies.values()))


def _langgraph_agent(patient: Patient) -> Iterator[Result]:
    if _version("langgraph") is None or _version("langchain") is None:
        yield Result("langgraph agent", "skipped", "not installed: pip install 'guardmw[langgraph]'")
        return
    yield from _blocking()
    yield _guard_is_called(patient)


def _blocking() -> Iterator[Result]:
    """A forbidden text must not come out of an agent, however it is consumed."""
    from guardmw.policy.schema import Category, Policy
    from guardmw.testing import FakeGuard

    category = Category(id="forbidden", title="A forbidden word", unsafe_when="The word is said.")
    policy = Policy(id="doctor", categories=(category,))
    answer = f"{SAFE_TEXT} Then it says {FORBIDDEN}, which nobody may read."
    for subject, consume in (("agent, ainvoke", _invoked), ("agent, astream messages", _streamed)):
        agent = _agent(policy, FakeGuard(unsafe=FORBIDDEN), answer)
        yield _blocked(subject, asyncio.run(consume(agent)), policy)


def _blocked(subject: str, seen: str, policy: Policy) -> Result:
    if FORBIDDEN in seen:
        return Result(subject, "failed", "a text that the guard forbade was shown")
    if policy.messages.blocked not in seen:
        return Result(subject, "failed", f"the text is gone, but the message in its place too; shown was {seen!r}")
    return Result(subject, "ok", "a forbidden text was blocked, and replaced by the policy's message")


def _guard_is_called(patient: Patient) -> Result:
    from guardmw.guard import resolve_guard

    policy, guard = _policy(patient), CountingGuard(resolve_guard(patient.guard))
    agent = _agent(policy, guard, SAFE_TEXT)

    async def run() -> None:
        try:
            await _invoked(agent)
        finally:
            await guard.aclose()

    asyncio.run(run())
    return _called(guard, policy)


def _called(guard: CountingGuard, policy: Policy) -> Result:
    subject = "guard is called"
    if guard.calls:
        return Result(subject, "ok", f"{guard.name}: {guard.calls} checks for one answer of the agent")
    if not policy.categories_on("output") and not policy.categories_on("input"):
        return Result(subject, "warning", f"never: the policy {policy.id!r} has no category for it to judge")
    return Result(subject, "failed", f"ALARM: the guard {guard.name!r} is configured, but nobody asked it")


class CountingGuard:
    """Passes every check on to `guard` and counts them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.name, self.version = guard.name, guard.version
        self.calls = 0

    async def check(self, check: Check, policy: Policy) -> Verdict:
        self.calls += 1
        return await self._guard.check(check, policy)

    async def aclose(self) -> None:
        await self._guard.aclose()


def _agent(policy: Policy, guard: Guard, answer: str) -> Any:
    from langchain.agents import create_agent

    from guardmw.testing import ScriptedChatModel
    from guardmw_langgraph import GuardMiddleware

    return create_agent(ScriptedChatModel([answer]), [], middleware=[GuardMiddleware(policy, guard=guard)])


QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}


async def _invoked(agent: Any) -> str:
    state = await agent.ainvoke(QUESTION)
    return "\n".join(message.text for message in state["messages"])


async def _streamed(agent: Any) -> str:
    stream = agent.astream(QUESTION, stream_mode="messages")
    return "".join([message.text async for message, _ in stream])


def _telemetry(patient: Patient) -> Iterator[Result]:
    from guardmw.telemetry.setup import sdk_configured

    if sdk_configured():
        yield Result("telemetry", "ok", "a tracer provider is set up in this process")
    elif _version("opentelemetry-sdk"):
        yield Result(
            "telemetry", "ok", "the SDK is installed; guardmw.telemetry.setup.setup_telemetry(name) turns it on"
        )
    else:
        yield Result("telemetry", "skipped", "spans go nowhere without the SDK: pip install 'guardmw[otel]'")


EXAMINATIONS: tuple[Examination, ...] = (_python, _packages, _policies, _guard, _langgraph_agent, _telemetry)
