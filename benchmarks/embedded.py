"""What the embedded guard costs and how well it judges.

    python benchmarks/embedded.py                         # time and memory
    python benchmarks/embedded.py --rows FILE.jsonl.gz    # also the shares over 0.5, by source and label

Times are of one check under the bundled policy `support`, on one thread; other work on the machine shows in them, so
compare `cpu_ms`. Memory is resident, over a bare interpreter. Rows are gzipped JSON lines as `guardmw train` reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from guardmw import Check, Policy, load_policies
from guardmw.guard.embedded import EmbeddedGuard
from guardmw.train.dataset import read_rows, surface_of

WORDS = "The parcel left our warehouse this morning and should reach you within two or three working days. "
TOKEN_CHARS = 4

MEMORY = """
import asyncio, sys
def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20
bare = resident()
from guardmw import Check, load_policies
policy = load_policies('support').policies['support']
library = resident()
from guardmw.guard.embedded import EmbeddedGuard
async def main():
    guard = EmbeddedGuard()
    for _ in range(3):
        await guard.check(Check('output', 'Some words to judge here. ' * 400), policy)
    print(round(library - bare, 1), round(resident() - bare, 1))
asyncio.run(main())
"""


async def times(guard: EmbeddedGuard, policy: Policy, check: Check, repeats: int = 60) -> tuple[list[float], float]:
    """Milliseconds of each of `repeats` checks, sorted; and the processor's per check, whatever else it does."""
    await guard.check(check, policy)
    found, busy = [], time.process_time()
    for _ in range(repeats):
        started = time.perf_counter()
        await guard.check(check, policy)
        found.append((time.perf_counter() - started) * 1000)
    return sorted(found), (time.process_time() - busy) * 1000 / repeats


async def speed(policy: Policy) -> dict[str, dict[str, float]]:
    started = time.perf_counter()
    guard = EmbeddedGuard()
    figures = {"load": {"p50_ms": (time.perf_counter() - started) * 1000}}
    earlier = WORDS * 40
    checks = {
        f"stream, {tokens} new tokens": Check(
            "output", earlier + (WORDS * 8)[: tokens * TOKEN_CHARS], offset_chars=len(earlier)
        )
        for tokens in (8, 16, 32, 48, 64, 128)
    } | {f"whole text, {count} characters": Check("input", (WORDS * 60)[:count]) for count in (50, 200, 1000, 5000)}
    for name, check in checks.items():
        found, cpu_ms = await times(guard, policy, check)
        pieces = (await guard.check(check, policy)).tokens.prompt
        figures[name] = {
            "pieces": pieces,
            "cpu_ms": cpu_ms,
            "least_ms": found[0],
            "p50_ms": statistics.median(found),
            "p95_ms": found[int(0.95 * len(found))],
        }
    await guard.aclose()
    return figures


async def accuracy(policies: dict[str, Policy], files: list[Path]) -> dict[str, dict[str, float]]:
    """By policy, source and label: the share of rows with a category at its threshold or above."""
    guard = EmbeddedGuard()
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        for row in read_rows(file):
            surface = surface_of(row.task)
            if surface is None:
                continue
            for name, policy in policies.items():
                verdict = await guard.check(Check(surface, row.content), policy)
                acts = {category.id: policy.thresholds(category)[1] for category in policy.categories}
                over = any(finding.probability >= acts[finding.category] for finding in verdict.findings)
                hits[name][f"{row.source} {row.label} ({row.task})"].append(over)
    await guard.aclose()
    return {
        name: {kind: round(sum(over) / len(over), 4) for kind, over in sorted(kinds.items())}
        for name, kinds in hits.items()
    }


def memory() -> dict[str, float]:
    if not Path("/proc/self/statm").exists():
        print("memory: SKIPPED, this system has no /proc", file=sys.stderr)
        return {}
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()
    return {"library_mib": float(found[0]), "library_and_guard_mib": float(found[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=Path, default=[], help="files of labelled rows")
    parser.add_argument("--policy", nargs="*", default=["base", "support"], help="policies to judge the rows under")
    options = parser.parse_args()
    figures: dict[str, object] = {
        "time": asyncio.run(speed(load_policies("support").policies["support"])),
        "memory": memory(),
    }
    absent = [file for file in options.rows if not file.exists()]
    if absent or not options.rows:
        print(
            f"accuracy: SKIPPED, {'no such file: ' + ', '.join(map(str, absent)) if absent else 'no --rows'}",
            file=sys.stderr,
        )
    else:
        figures["accuracy"] = asyncio.run(accuracy(load_policies(*options.policy).policies, options.rows))
    print(json.dumps(figures, indent=2, default=float))


if __name__ == "__main__":
    main()
