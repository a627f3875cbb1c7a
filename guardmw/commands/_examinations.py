"""What `guardmw doctor` looks at. Every examination yields results; one that raises is a failed one."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
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


Examination = Callable[[Patient], AsyncIterator[Result]]


async def examine(patient: Patient) -> list[Result]:
    """Every examination, one after the other."""
    return [result for examination in EXAMINATIONS for result in await _safely(examination, patient)]


async def _safely(examination: Examination, patient: Patient) -> list[Result]:
    results: list[Result] = []
    try:
        async for result in examination(patient):
            results.append(result)  # noqa: PERF401 - what came before an error is kept
    except Exception as error:
        subject = examination.__name__.removeprefix("_").replace("_", " ")
        results.append(Result(subject, "failed", f"{type(error).__name__}: {error}"))
    return results


async def _python(patient: Patient) -> AsyncIterator[Result]:
    yield Result("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Result("guardmw", "ok", metadata.version("guardmw"))


async def _packages(patient: Patient) -> AsyncIterator[Result]:
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


async def _policies(patient: Patient) -> AsyncIterator[Result]:
    from guardmw.policy.load import bundled_ids, load_policies

    bundled = bundled_ids()
    for name in bundled:
        load_policies(name)
    yield Result("bundled policies", "ok", ", ".join(bundled))
    if patient.policy not in bundled:
        yield Result("policy", "ok", ", ".join(load_policies(patient.policy).policies))


async def _guard(patient: Patient) -> AsyncIterator[Result]:
    from guardmw.guard import resolve_guard

    started_s = time.perf_counter()
    guard = resolve_guard(patient.guard)
    loaded_s = time.perf_counter() - started_s
    try:
        policy, check = _policy(patient), Check("output", SAFE_TEXT)
        first_s = await _timed(partial(guard.check, check, policy))
        times_s = [await _timed(partial(guard.check, check, policy)) for _ in range(TIMED_CHECKS)]
    finally:
        await guard.aclose()
    yield Result("guard", "ok", f"{guard.name} {guard.version}, loaded in {loaded_s * 1000:.0f} ms")
    middle_ms, worst_ms = statistics.median(times_s) * 1000, max(times_s) * 1000
    categories = len(policy.categories_on("output"))
    yield Result(
        "guard latency",
        "ok" if middle_ms <= policy.limits.deadline_ms / 4 else "warning",
        f"{middle_ms:.1f} ms a check (worst of {TIMED_CHECKS}: {worst_ms:.1f}, first: {first_s * 1000:.1f}), "
        f"{categories} categories, {len(SAFE_TEXT)} characters; the deadline is {policy.limits.deadline_ms} ms",
    )


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    started_s = time.perf_counter()
    await call()
    return time.perf_counter() - started_s


def _policy(patient: Patient) -> Policy:
    from guardmw.policy.load import load_policies

    return next(iter(load_policies(patient.policy).policies.values()))


async def _langgraph_agent(patient: Patient) -> AsyncIterator[Result]:
    if _version("langgraph") is None or _version("langchain") is None:
        yield Result("langgraph agent", "skipped", "not installed: pip install 'guardmw[langgraph]'")
        return
    for result in await _blocking():
        yield result
    yield await _guard_is_called(patient)


async def _blocking() -> list[Result]:
    """A forbidden text must not come out of an agent, however it is consumed."""
    from guardmw.policy.schema import Category, Policy
    from guardmw.testing import FakeGuard

    category = Category(id="forbidden", title="A forbidden word", unsafe_when="The word is said.")
    policy = Policy(id="doctor", categories=(category,))
    answer = f"{SAFE_TEXT} Then it says {FORBIDDEN}, which nobody may read."
    return [
        _blocked("agent, ainvoke", await _invoked(policy, FakeGuard(unsafe=FORBIDDEN), answer), policy),
        _blocked("agent, astream messages", await _streamed(policy, FakeGuard(unsafe=FORBIDDEN), answer), policy),
    ]


def _blocked(subject: str, seen: str, policy: Policy) -> Result:
    if FORBIDDEN in seen:
        return Result(subject, "failed", "a text that the guard forbade was shown")
    if policy.messages.blocked not in seen:
        return Result(subject, "failed", f"the text is gone, but the message in its place too; shown was {seen!r}")
    return Result(subject, "ok", "a forbidden text was blocked, and replaced by the policy's message")


async def _guard_is_called(patient: Patient) -> Result:
    from guardmw.guard import resolve_guard

    guard = resolve_guard(patient.guard)
    policy, counting = _policy(patient), CountingGuard(guard)
    try:
        await _invoked(policy, counting, SAFE_TEXT)
    finally:
        await guard.aclose()
    if counting.calls:
        return Result("guard is called", "ok", f"{guard.name}: {counting.calls} checks for one answer of the agent")
    if not policy.categories_on("output") and not policy.categories_on("input"):
        return Result("guard is called", "warning", f"never: the policy {policy.id!r} has no category for it to judge")
    return Result("guard is called", "failed", f"ALARM: {guard.name} was configured and never asked")


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
        """The guard belongs to somebody else."""


def _agent(policy: Policy, guard: Guard, answer: str) -> Any:
    from langchain.agents import create_agent

    from guardmw.testing import ScriptedChatModel
    from guardmw_langgraph import GuardMiddleware

    return create_agent(ScriptedChatModel([answer]), [], middleware=[GuardMiddleware(policy, guard=guard)])


QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}


async def _invoked(policy: Policy, guard: Guard, answer: str) -> str:
    state = await _agent(policy, guard, answer).ainvoke(QUESTION)
    return "\n".join(message.text for message in state["messages"])


async def _streamed(policy: Policy, guard: Guard, answer: str) -> str:
    stream = _agent(policy, guard, answer).astream(QUESTION, stream_mode="messages")
    return "".join([message.text async for message, _ in stream])


async def _telemetry(patient: Patient) -> AsyncIterator[Result]:
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
