"""What the stream gate costs: delays, exposure, guard calls, CPU, memory.

A paced source and a paced guard, so that every millisecond above "no guard" is the gate's. "No guard" runs in the same
process, and every figure is compared with it. Deltas are one word each; a token is a delta. "Agent" rows go the whole
way: a LangGraph agent with GuardMiddleware, consumed with stream_mode="messages".

    python benchmarks/stream.py [--quick] [--out out/stream.json]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from rich.console import Console
from rich.table import Table

from guardmw import Checker, Policy
from guardmw.stream.gate import Blocked, Item, Released, Text, guard_stream
from guardmw.testing import FakeGuard
from guardmw.types import Decision
from guardmw_langgraph import GuardMiddleware

VIOLATION = "VIOLATION"
POLICY = Policy.model_validate(
    {
        "id": "benchmark",
        "categories": [
            {"id": "harm", "title": "Harm", "unsafe_when": f"It says {VIOLATION}.", "surfaces": ["output", "reasoning"]}
        ],
    }
)


@dataclass
class Source:
    """`tokens` deltas, one every `delay_s` counted from the start, so that a late one doesn't delay the rest."""

    tokens: int
    delay_s: float
    violation_at: int | None = None
    closed_at_s: float = 0.0
    started_s: float = 0.0

    def words(self) -> list[str]:
        words = [f"word{index % 100} " for index in range(self.tokens)]
        if self.violation_at is not None:
            words[self.violation_at] = f"{VIOLATION} "
        return words

    async def deltas(self) -> AsyncGenerator[Text, None]:
        self.started_s = time.perf_counter()
        try:
            for index, word in enumerate(self.words()):
                if self.delay_s:
                    await asyncio.sleep(max(0.0, self.started_s + (index + 1) * self.delay_s - time.perf_counter()))
                yield Text("output", word)
        finally:
            self.closed_at_s = time.perf_counter()


@dataclass
class Clock:
    """A recorder that remembers when the blocking decision was taken."""

    blocked_at_s: float = 0.0

    def record(self, decision: Decision) -> None:
        if decision.withheld:
            self.blocked_at_s = time.perf_counter()


@dataclass
class Run:
    """What one consumer of one stream saw."""

    text: str = ""
    times_s: list[float] = field(default_factory=list)
    started_s: float = 0.0
    ended_s: float = 0.0

    @property
    def first_ms(self) -> float:
        return 1e3 * (self.times_s[0] - self.started_s) if self.times_s else float("nan")

    @property
    def total_ms(self) -> float:
        return 1e3 * (self.ended_s - self.started_s)

    @property
    def gap_ms(self) -> float:
        return 1e3 * max((b - a for a, b in zip(self.times_s, self.times_s[1:], strict=False)), default=0.0)


async def consume(items: AsyncIterator[Text | Item]) -> Run:
    run = Run(started_s=time.perf_counter())
    async for item in items:
        if isinstance(item, Text | Released):
            run.text += item.text
            run.times_s.append(time.perf_counter())
        elif isinstance(item, Blocked):
            run.text += item.message
    run.ended_s = time.perf_counter()
    return run


@dataclass
class Row:
    name: str
    streams: int
    first_ms: float
    total_ms: float
    added_total_ms: float
    gap_ms: float
    leaked_words: int
    guard_calls: float
    cpu_ms: float
    added_cpu_ms: float
    close_ms: float | None = None


@dataclass
class Scene:
    """What guards the streams of one measurement; `guard_ms` None means nothing does."""

    guard_ms: float | None
    streams: int
    guard: FakeGuard = field(init=False)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.guard = FakeGuard(unsafe=VIOLATION, latency_s=(self.guard_ms or 0.0) / 1e3)

    @property
    def checker(self) -> Checker:
        return Checker(POLICY, guard=self.guard, recorder=self.clock, max_in_flight=max(64, self.streams))


def gate_stream(source: Source, scene: Scene) -> AsyncIterator[Text | Item]:
    if scene.guard_ms is None:
        return source.deltas()
    return guard_stream(source.deltas(), scene.checker, POLICY, agent="benchmark")


class PacedModel(BaseChatModel):
    """Streams a source, one chunk a delta."""

    source: Any

    @property
    def _llm_type(self) -> str:
        return "paced"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise RuntimeError("the benchmark streams")

    async def _astream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with aclosing(self.source.deltas()) as deltas:
            async for delta in deltas:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=delta.text))
                if manager := kwargs.get("run_manager"):
                    await manager.on_llm_new_token(delta.text, chunk=chunk)
                yield chunk


def agent_stream(source: Source, scene: Scene) -> AsyncIterator[Text | Item]:
    """The agent is made before the clock runs, as an application makes it once."""
    middleware = [GuardMiddleware(POLICY, guard=scene.guard, recorder=scene.clock)] if scene.guard_ms else []
    agent = create_agent(PacedModel(source=source), [], middleware=middleware)
    return _texts(agent.astream({"messages": [{"role": "user", "content": "Go on."}]}, stream_mode="messages"))


async def _texts(events: AsyncIterator[Any]) -> AsyncIterator[Text]:
    async for message, _ in events:
        if message.text:
            yield Text("output", message.text)


Streams = Callable[[Source, Scene], AsyncIterator[Text | Item]]


async def measure(
    name: str,
    streams: int,
    source: Source,
    *,
    guard_ms: float | None,
    baseline: Row | None = None,
    open_stream: Streams = gate_stream,
) -> Row:
    """Runs `streams` copies of `source` at once and compares them with `baseline`."""
    sources = [Source(source.tokens, source.delay_s, source.violation_at) for _ in range(streams)]
    scene = Scene(guard_ms, streams)
    cpu_s = time.process_time()
    runs = await asyncio.gather(*(consume(open_stream(one, scene)) for one in sources))
    cpu_s = time.process_time() - cpu_s
    whole = "".join(source.words())
    if source.violation_at is None and any(run.text != whole for run in runs):
        raise SystemExit(f"{name}: clean text came out changed")
    total_ms = statistics.median(run.total_ms for run in runs)
    cpu_ms, calls = 1e3 * cpu_s / streams, [check for check in scene.guard.checks if check.surface == "output"]
    return Row(
        name=name,
        streams=streams,
        first_ms=statistics.median(run.first_ms for run in runs),
        total_ms=total_ms,
        added_total_ms=total_ms - (baseline.total_ms if baseline else total_ms),
        gap_ms=max(run.gap_ms for run in runs),
        leaked_words=sum(leaked(run.text, source) for run in runs),
        guard_calls=len(calls) / streams,
        cpu_ms=cpu_ms,
        added_cpu_ms=cpu_ms - (baseline.cpu_ms if baseline else cpu_ms),
        close_ms=1e3 * (sources[0].closed_at_s - scene.clock.blocked_at_s) if scene.clock.blocked_at_s else None,
    )


def leaked(text: str, source: Source) -> int:
    """Words at and after the violation that were shown."""
    if source.violation_at is None:
        return 0
    before = "".join(source.words()[: source.violation_at])
    shown = text.removesuffix(POLICY.messages.blocked)
    return len(shown[len(before) :].split()) if shown.startswith(before) else 0


async def delays(quick: bool, prefix: str, open_stream: Streams) -> list[Row]:
    long = Source(200 if quick else 600, 0.002)
    cut = Source(long.tokens, long.delay_s, violation_at=long.tokens // 2)
    many = Source(100 if quick else 300, 0.005)

    async def run(name: str, streams: int, source: Source, guard_ms: float | None, base: Row | None = None) -> Row:
        name = f"{prefix}: {name}"
        return await measure(name, streams, source, guard_ms=guard_ms, baseline=base, open_stream=open_stream)

    bare, bare_many = await run("no guard", 1, long, None), await run("no guard", 32, many, None)
    return [
        bare,
        await run("clean", 1, long, 20, bare),
        await run("violation half-way", 1, cut, 20, bare),
        bare_many,
        await run("clean", 32, many, 20, bare_many),
    ]


@dataclass
class Work:
    """CPU of the gate alone, with a source and a guard that never wait."""

    us_per_delta: float
    us_per_check: float


async def work() -> Work:
    guard = FakeGuard(unsafe=VIOLATION)
    checker = Checker(POLICY, guard=guard)
    deltas = 50_000
    source = Source(deltas, 0.0)
    cpu_s = time.process_time()
    async for _ in source.deltas():
        pass
    bare_s = time.process_time() - cpu_s
    cpu_s = time.process_time()
    async for _ in guard_stream(source.deltas(), checker, POLICY, agent="benchmark"):
        pass
    per_delta_s = (time.process_time() - cpu_s - bare_s) / deltas
    return Work(us_per_delta=1e6 * per_delta_s, us_per_check=await _us_per_check())


async def _us_per_check() -> float:
    """A stream of paragraphs, each long enough to be a chunk of its own; each waits for the one before."""
    guard = FakeGuard(unsafe=VIOLATION)
    checker = Checker(POLICY, guard=guard)
    paragraph = "word " * 50 + "\n"

    async def paragraphs() -> AsyncGenerator[Text, None]:
        for index in range(200):
            yield Text("output", paragraph)
            while len(guard.checks) <= index:  # noqa: ASYNC110 -- what is measured here is the loop's own turns
                await asyncio.sleep(0)

    cpu_s = time.process_time()
    await consume(guard_stream(paragraphs(), checker, POLICY, agent="benchmark"))
    return 1e6 * (time.process_time() - cpu_s) / len(guard.checks)


@dataclass
class Soak:
    streams: int
    rounds: int
    rss_mib: list[float]
    tasks_left: int

    @property
    def growth_mib(self) -> float:
        """From the second round, when pools and caches are filled, to the last."""
        return self.rss_mib[-1] - self.rss_mib[1]


async def soak(quick: bool) -> Soak:
    """A thousand streams at once, round after round: memory and tasks must not grow."""
    streams, rounds = (200, 4) if quick else (1000, 10)
    guard = FakeGuard(unsafe=VIOLATION, latency_s=0.02)
    checker = Checker(POLICY, guard=guard, max_in_flight=streams)
    rss_mib = []
    for _ in range(rounds):
        await asyncio.gather(
            *(
                consume(guard_stream(Source(50, 0.01).deltas(), checker, POLICY, agent="benchmark"))
                for _ in range(streams)
            )
        )
        guard.checks.clear()
        gc.collect()
        rss_mib.append(_rss_mib())
    return Soak(streams, rounds, rss_mib, tasks_left=len(asyncio.all_tasks()) - 1)


def _rss_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(rows: list[Row], gate: Work, load: Soak) -> None:
    table = Table(title="Streams (medians; source 2 ms a token, 5 ms with 32 streams; guard 20 ms)")
    table.add_column("run", no_wrap=True)
    for column in ("streams", "first ms", "total ms", "added ms", "gap ms", "leaked", "checks", "CPU ms", "added CPU"):
        table.add_column(column, justify="right")
    table.add_column("close ms", justify="right")
    for row in rows:
        close = "" if row.close_ms is None else f"{row.close_ms:.1f}"
        table.add_row(
            row.name, str(row.streams), f"{row.first_ms:.1f}", f"{row.total_ms:.0f}", f"{row.added_total_ms:.1f}",
            f"{row.gap_ms:.0f}", str(row.leaked_words), f"{row.guard_calls:.0f}", f"{row.cpu_ms:.1f}",
            f"{row.added_cpu_ms:.1f}", close,
        )  # fmt: skip
    console = Console(width=140)
    console.print(table)
    console.print(
        "leaked: words shown at or after the violation; CPU: per stream; close: from verdict to closed source"
    )
    console.print(f"The gate's own work: {gate.us_per_delta:.1f} µs a delta, {gate.us_per_check:.0f} µs a check.")
    console.print(
        f"{load.streams} streams at once, {load.rounds} rounds: {load.growth_mib:+.1f} MiB from round 2 to the last, "
        f"{load.tasks_left} tasks left."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller runs")
    parser.add_argument("--out", type=Path, default=Path("out/stream.json"))
    arguments = parser.parse_args()

    async def run() -> tuple[list[Row], Work, Soak]:
        rows = await delays(arguments.quick, "gate", gate_stream)
        rows += await delays(arguments.quick, "agent", agent_stream)
        return rows, await work(), await soak(arguments.quick)

    rows, gate, load = asyncio.run(run())
    show(rows, gate, load)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"rows": [asdict(row) for row in rows], "gate": asdict(gate), "soak": asdict(load)}
    arguments.out.write_text(json.dumps(report, indent=2))
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
