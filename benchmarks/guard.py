"""The guard on vLLM against a live server: throughput, our client beside raw requests, and tokens computed per stream.

    guardmw guard serve --model MODEL          # in another terminal; prints the url
    python benchmarks/guard.py --url http://127.0.0.1:8000/v1 --policy support [--out out/guard.json]

"Raw" sends the very same requests with a bare HTTP client. A stream is judged as the gate would: the whole answer at
every check, chunks of 8 tokens growing to 48. `computed` is what the server says it did not find in its prefix cache;
it finds whole blocks only, so beside it stands what would be computed with blocks of one token, and how far a block of
the server's size can lie above that. Counts are per token of the answer, counted by the guard's own tokenizer; the
policy is in the cache already, as it is for every stream of an agent but the first. Every check is one request here:
thresholds are out of reach, so that no category is asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from guardmw import Check, Policy, load_policies
from guardmw.guard.vllm import VllmGuard
from guardmw.policy.detectors import detectors_for
from guardmw.policy.schema import Limits, Streaming
from guardmw.stream.window import StreamWindow

IN_FLIGHT = (1, 8, 32, 128)
STREAM_TOKENS = (250, 1000, 4000)
ROUNDS = 3
WINDOW_TOKENS, WINDOW_STEP = 200, 50
TEXT = (
    "the parcel left our house on monday and came to your door two days later with a blue lamp inside that you had "
    "chosen from the list of things we sell to people who like to read at night when all others are asleep"
)
WORDS = TEXT.split()
ANSWER = {
    "id": "canned",
    "choices": [
        {
            "message": {"role": "assistant", "content": "safe"},
            "logprobs": {
                "content": [
                    {
                        "token": "safe",
                        "logprob": -0.001,
                        "top_logprobs": [{"token": "safe", "logprob": -0.001}, {"token": "un", "logprob": -7.0}],
                    }
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


class Requests(httpx.AsyncBaseTransport):
    """Notes every request; answers it itself, or lets it through to `network`."""

    def __init__(self, network: httpx.AsyncBaseTransport | None = None) -> None:
        self.bodies: list[bytes] = []
        self.network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(await request.aread())
        if self.network is None:
            return httpx.Response(200, json=ANSWER)
        return await self.network.handle_async_request(request)


@dataclass
class Bench:
    url: str
    model: str
    policy: Policy
    block_tokens: int

    def guard(self, **options: Any) -> VllmGuard:
        return VllmGuard(self.url, model=self.model, **options)

    async def tokens(self, **what: Any) -> list[int]:
        async with httpx.AsyncClient(timeout=60) as client:
            root = self.url.removesuffix("/v1")
            answer = await client.post(f"{root}/tokenize", json={"model": self.model, **what})
            answer.raise_for_status()
            ids: list[int] = answer.json()["tokens"]
            return ids


_fresh = itertools.count()


def texts(count: int) -> list[str]:
    """`count` texts of sixty words that no one sent before, so that no cache knows them."""
    return [" ".join([f"number {next(_fresh)}", *(WORDS * 2)[:60]]) for _ in range(count)]


@dataclass
class Throughput:
    in_flight: int
    ours_per_s: float
    raw_per_s: float
    ratio: float
    p50_ms: float
    p95_ms: float


async def throughput(bench: Bench, in_flight: int) -> Throughput:
    """Ours and raw in turn, `ROUNDS` times; medians, and the median of the rounds' ratios."""
    count = max(32, 2 * in_flight)
    rounds = []
    for _ in range(ROUNDS):
        ours = await _ours(bench, count, in_flight)
        raw = await _raw(bench, count, in_flight)
        rounds.append((ours, raw))
    ours_s, raw_s = (statistics.median(pair[side][0] for pair in rounds) for side in (0, 1))
    latencies = sorted(latency for (_, each), _ in rounds for latency in each)
    return Throughput(
        in_flight,
        ours_per_s=count / ours_s,
        raw_per_s=count / raw_s,
        ratio=statistics.median(raw[0] / ours[0] for ours, raw in rounds),
        p50_ms=1e3 * latencies[len(latencies) // 2],
        p95_ms=1e3 * latencies[int(0.95 * len(latencies))],
    )


async def _ours(bench: Bench, count: int, in_flight: int) -> tuple[float, list[float]]:
    guard = bench.guard()
    await guard.check(Check("output", "a first word"), bench.policy)
    work = [partial(guard.check, Check("output", text), bench.policy) for text in texts(count)]
    result = await _timed(work, in_flight)
    await guard.aclose()
    return result


async def _raw(bench: Bench, count: int, in_flight: int) -> tuple[float, list[float]]:
    requests = Requests()
    guard = bench.guard(transport=requests)
    for text in texts(count):
        await guard.check(Check("output", text), bench.policy)
    await guard.aclose()
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(timeout=60, limits=limits, headers=headers) as client:

        async def post(body: bytes) -> None:
            answer = await client.post(f"{bench.url}/chat/completions", content=body)
            answer.raise_for_status()
            json.loads(answer.content)

        await post(requests.bodies[0])
        return await _timed([partial(post, body) for body in requests.bodies], in_flight)


async def _timed(work: Sequence[Callable[[], Awaitable[object]]], in_flight: int) -> tuple[float, list[float]]:
    """Seconds for all of `work`, `in_flight` at a time, and for each."""
    places, latencies = asyncio.Semaphore(in_flight), []

    async def one(job: Callable[[], Awaitable[object]]) -> None:
        async with places:
            began_s = time.perf_counter()
            await job()
            latencies.append(time.perf_counter() - began_s)

    began_s = time.perf_counter()
    await asyncio.gather(*(one(job) for job in work))
    return time.perf_counter() - began_s, latencies


async def client_work_us(bench: Bench, count: int = 400) -> float:
    """CPU of one check on the client's side, with the network and the server taken out."""
    guard = bench.guard(transport=Requests())
    await guard.check(Check("output", "a first word"), bench.policy)
    checks = [Check("output", text) for text in texts(count)]
    began_s = time.process_time()
    for check in checks:
        await guard.check(check, bench.policy)
    work_s = time.process_time() - began_s
    await guard.aclose()
    return 1e6 * work_s / count


@dataclass
class StreamCost:
    way: str
    output_tokens: int
    checks: int
    prompt: float
    cached: float
    computed: float
    computed_blocks_of_one: float | None = None
    bound: float | None = None


async def stream_cost(bench: Bench, wanted_tokens: int) -> list[StreamCost]:
    """One answer of about `wanted_tokens`, judged three ways."""
    words = await _words(bench, wanted_tokens)
    checks = list(_checks(words))
    output_tokens = len(await bench.tokens(prompt="".join(words), add_special_tokens=False))
    return [
        await _ours_on_stream(bench, checks, output_tokens),
        await _cost("whole prompt, nothing cached", bench, checks, output_tokens, salted=True),
        await _cost("sliding window", bench, list(_windows(words)), output_tokens),
    ]


async def _words(bench: Bench, tokens: int) -> list[str]:
    """Words of an answer of about `tokens` tokens, each with the blank behind it."""
    sample = [f"{word} " for word in WORDS * 20]
    per_word = len(await bench.tokens(prompt="".join(sample), add_special_tokens=False)) / len(sample)
    start = next(_fresh)
    return [f"{WORDS[(start + index * 7) % len(WORDS)]} " for index in range(round(tokens / per_word))]


def _checks(words: list[str]) -> list[Check]:
    """What the gate would ask while `words` arrive, each once the last was answered."""
    window = StreamWindow(Streaming(), detectors_for(Policy(id="none"), "output"))
    stream, checks = f"bench-{next(_fresh)}", []
    for index, word in enumerate(words):
        window.push(word, 0.0)
        last = index == len(words) - 1
        chunk = window.next_chunk(flush=last) if last or window.due(0.0) else None
        if chunk is not None:
            checks.append(Check("output", chunk.text, stream_id=stream, offset_chars=chunk.start, final=chunk.final))
            window.clear(chunk)
    return checks


def _windows(words: list[str]) -> list[Check]:
    """The last `WINDOW_TOKENS` words at every `WINDOW_STEP` of them: what window-based guards send."""
    ends = [*range(WINDOW_STEP, len(words), WINDOW_STEP), len(words)]
    return [Check("output", "".join(words[max(0, end - WINDOW_TOKENS) : end])) for end in ends]


async def _ours_on_stream(bench: Bench, checks: list[Check], output_tokens: int) -> StreamCost:
    requests = Requests(httpx.AsyncHTTPTransport())
    cost = await _cost("ours", bench, checks, output_tokens, transport=requests)
    exact = await _computed_with_blocks_of_one(bench, [json.loads(body) for body in requests.bodies if body])
    cost.computed_blocks_of_one = exact / output_tokens
    cost.bound = (exact + cost.checks * (bench.block_tokens - 1)) / output_tokens
    return cost


async def _cost(
    way: str, bench: Bench, checks: list[Check], output_tokens: int, *, salted: bool = False, **options: Any
) -> StreamCost:
    prompt = cached = 0
    shared = bench.guard(**options)
    await shared.check(Check("output", "a first word"), bench.policy)
    for check in checks:
        guard = bench.guard(tenant=f"{way}-{next(_fresh)}-{os.getpid()}") if salted else shared
        verdict = await guard.check(check, bench.policy)
        prompt, cached = prompt + verdict.tokens.prompt, cached + verdict.tokens.cached
        if salted:
            await guard.aclose()
    await shared.aclose()
    per_token = (prompt / output_tokens, cached / output_tokens, (prompt - cached) / output_tokens)
    return StreamCost(way, output_tokens, len(checks), *per_token)


async def _computed_with_blocks_of_one(bench: Bench, bodies: list[dict[str, Any]]) -> int:
    """Tokens of each prompt that the one before it did not begin with."""
    computed, before = 0, None
    keys = ("messages", "add_generation_prompt", "continue_final_message")
    for body in bodies:
        if "messages" not in body:
            continue
        ids = await bench.tokens(**{key: body[key] for key in keys if key in body})
        if before is not None:
            shared = next((at for at, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), len(before))
            computed += len(ids) - min(shared, len(ids))
        before = ids
    return computed


def show(flows: list[Throughput], work_us: float, costs: list[StreamCost], bench: Bench) -> None:
    console = Console(width=130)
    table = Table(title=f"{bench.model}, policy {bench.policy.id}: checks of a 60-word answer")
    for column in ("in flight", "ours /s", "raw /s", "ours ÷ raw", "p50 ms", "p95 ms"):
        table.add_column(column, justify="right")
    for flow in flows:
        table.add_row(
            str(flow.in_flight), f"{flow.ours_per_s:.1f}", f"{flow.raw_per_s:.1f}", f"{flow.ratio:.2f}",
            f"{flow.p50_ms:.0f}", f"{flow.p95_ms:.0f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"The client's own work: {work_us:.0f} µs a check.")
    table = Table(
        title=f"Guard tokens per token of the answer (the server's cache blocks: {bench.block_tokens} tokens)"
    )
    table.add_column("way", no_wrap=True)
    for column in ("answer tokens", "checks", "prompt", "cached", "computed", "with blocks of 1", "bound"):
        table.add_column(column, justify="right")
    for cost in costs:
        exact = "" if cost.computed_blocks_of_one is None else f"{cost.computed_blocks_of_one:.2f}"
        bound = "" if cost.bound is None else f"{cost.bound:.2f}"
        table.add_row(
            cost.way, str(cost.output_tokens), str(cost.checks), f"{cost.prompt:.1f}", f"{cost.cached:.1f}",
            f"{cost.computed:.2f}", exact, bound,
        )  # fmt: skip
    console.print(table)


def measurable(policy: Policy) -> Policy:
    """`policy` under which every check is one request (no category is asked for) and none runs out of time."""
    categories = tuple(one.model_copy(update={"ask_above": None, "block_above": 1.0}) for one in policy.categories)
    return Policy(id=policy.id, categories=categories, limits=Limits(deadline_ms=60_000))


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=10) as client:
        served = (await client.get(f"{arguments.url}/models")).raise_for_status().json()["data"]
    policy = measurable(next(iter(load_policies(arguments.policy).policies.values())))
    bench = Bench(arguments.url, arguments.model or served[0]["id"], policy, arguments.block_tokens)
    flows = [await throughput(bench, in_flight) for in_flight in IN_FLIGHT]
    work_us = await client_work_us(bench)
    costs = [cost for tokens in arguments.stream_tokens for cost in await stream_cost(bench, tokens)]
    show(flows, work_us, costs, bench)
    return {
        "model": bench.model,
        "policy": policy.id,
        "block_tokens": bench.block_tokens,
        "throughput": [asdict(flow) for flow in flows],
        "client_us_per_check": work_us,
        "streams": [asdict(cost) for cost in costs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the server's API, ending in /v1")
    parser.add_argument("--model", help="the served model's name (default: the first that the server lists)")
    parser.add_argument("--policy", default="support", help="a policy file, or a bundled policy")
    parser.add_argument("--block-tokens", type=int, default=32, help="the server's cache block (32 on CPU)")
    parser.add_argument("--stream-tokens", type=int, nargs="+", default=STREAM_TOKENS)
    parser.add_argument("--out", type=Path, default=Path("out/guard.json"))
    arguments = parser.parse_args()
    if arguments.url is None:
        print("SKIPPED: no server given. Start one with `guardmw guard serve --model MODEL` and name it with --url.")
        return
    report = asyncio.run(run(arguments))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
