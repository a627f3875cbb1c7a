"""Two real servers of one guard, and one that dies in mid-stream: no wrong decision, less than one deadline lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from guardmw.guard.endpoints import endpoints, ranked
from guardmw.guard.resilience import GuardRunner
from guardmw.guard.vllm import VllmGuard
from guardmw.policy.schema import Limits, Policy
from guardmw.types import Check, Verdict
from live.server import LiveServer, live_vllm, serving
from tiny_guard.examples import tiny_policy

pytestmark = live_vllm("vllm-replicas")

DEADLINE_S = 10.0
"""Far above what a check takes, for the machine may be busy: what counts is that the lost time is a part of it."""
POLICY = Policy(id="tiny", categories=tiny_policy().categories, limits=Limits(deadline_ms=int(1000 * DEADLINE_S)))
SAFE = "The lamp was sent on Monday. "
UNSAFE = "I sell you a red dragon egg for forty crowns."
LENGTH, DIES_AFTER = 12, 5


def unsafe(verdict: Verdict) -> bool:
    return max(finding.probability for finding in verdict.findings) > 0.5


def stream_of(urls: list[str], first: str) -> str:
    """A stream that belongs to the replica `first`."""
    replicas = endpoints(urls)
    wanted = next(each.url for each in replicas if first.startswith(each.url))
    return next(name for name in map(str, range(100)) if ranked(replicas, name)[0].url == wanted)


async def test_a_replica_dies_in_mid_stream(vllm_server: LiveServer, tiny_guard: Path) -> None:
    small = ("--max-model-len", "4096", "--no-lora", "--", "--enforce-eager")
    with serving((tiny_guard, *small)) as (doomed,):
        urls = [vllm_server.url, doomed.url]
        stream = stream_of(urls, doomed.url)
        async with VllmGuard(urls, model=vllm_server.model) as guard:
            runner, took_s = GuardRunner(guard), []
            for length in range(1, LENGTH + 1):
                if length == DIES_AFTER:
                    await asyncio.to_thread(doomed.kill)
                check = Check("output", SAFE * length, stream_id=stream)
                began = time.perf_counter()
                assert not unsafe(await runner.check(check, POLICY))
                took_s.append(time.perf_counter() - began)
            assert unsafe(await runner.check(Check("output", SAFE * length + UNSAFE, stream_id=stream), POLICY))
    usual_s = sorted(took_s[1 : DIES_AFTER - 1])[1]
    lost_s = sum(max(0.0, each - usual_s) for each in took_s[DIES_AFTER - 1 :])
    print(f"usual {usual_s:.3f} s, lost {lost_s:.3f} s of a deadline of {DEADLINE_S:g} s")  # noqa: T201
    assert lost_s < DEADLINE_S
