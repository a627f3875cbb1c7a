"""What the embedded guard costs, and how well it judges beside plainer classifiers.

    python benchmarks/embedded.py                           # time and memory
    python benchmarks/embedded.py --data DIR --encoder ID   # also against two baselines, trained here on the same rows

Times are of one check under the bundled policy `support`, on one thread; other work on the machine shows in them, so
compare `cpu_ms`. Memory is resident, over a bare interpreter. DIR is what `guardmw train embedded` reads; the baselines
(TF-IDF and logistic regression; the pretrained encoder ID, frozen, and logistic regression) need the extra `train` and
scikit-learn. All three judge DIR/dev, each row under its own taxonomy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from guardmw import Check, Guard, Policy, load_policies
from guardmw.evaluation.data import Dataset, read_data, read_files
from guardmw.evaluation.rules import RuleBook
from guardmw.evaluation.run import Settings, evaluate
from guardmw.guard.embedded import EmbeddedGuard
from guardmw.train.dataset import read_taxonomies
from guardmw.types import Message

WORDS = "The parcel left our warehouse this morning and should reach you within two or three working days. "
QUESTION = (Message("user", "Where is my parcel, and can I still change the address?"),)
TOKEN_CHARS = 4
FIGURES = ("recall", "fpr", "f1", "auroc", "auprc")

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


def checks() -> dict[str, Check]:
    earlier = WORDS * 40
    return {
        f"stream, {tokens} new tokens{', with a question' if said else ''}": Check(
            "output", earlier + (WORDS * 8)[: tokens * TOKEN_CHARS], offset_chars=len(earlier), conversation=said
        )
        for tokens in (8, 16, 32, 48, 64, 128)
        for said in ((), QUESTION)
    } | {f"whole text, {count} characters": Check("input", (WORDS * 60)[:count]) for count in (50, 200, 1000, 5000)}


async def speed(policy: Policy) -> dict[str, dict[str, float]]:
    started = time.perf_counter()
    guard = EmbeddedGuard()
    figures = {"load": {"p50_ms": (time.perf_counter() - started) * 1000}}
    for name, check in checks().items():
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


def memory() -> dict[str, float]:
    if not Path("/proc/self/statm").exists():
        print("memory: SKIPPED, this system has no /proc", file=sys.stderr)
        return {}
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()
    return {"library_mib": float(found[0]), "library_and_guard_mib": float(found[1])}


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """By guard, what `guardmw eval` says of it on the dev rows."""
    taxonomies = read_taxonomies(options.data / "taxonomies.json")
    found, _ = read_files([options.data / "dev"], "guardmw")
    dataset = read_data(found, RuleBook(taxonomies), limit=options.dev_limit)
    results = {}
    for guard in guards(options):
        tell(f"{guard.name} judges {len(dataset.samples)} rows")
        results[guard.name] = asyncio.run(judged(dataset, guard))
    return results


def guards(options: argparse.Namespace) -> Iterator[Guard]:
    from compared.plain_guards import frozen_encoder, tfidf, training_rows

    yield EmbeddedGuard()
    rows = training_rows(options.data, options.train_limit)
    tell(f"fitting TF-IDF and logistic regression to {len(rows)} rows")
    yield tfidf(rows)
    tell(f"encoding {len(rows)} rows with the frozen encoder, then logistic regression")
    yield frozen_encoder(rows, options.encoder)


def tell(line: str) -> None:
    print(f"{time.strftime('%X')} {line}", file=sys.stderr)


async def judged(dataset: Dataset, guard: Guard) -> dict[str, Any]:
    report = await evaluate(dataset, guard, Settings(bootstrap=200, streaming=False), lambda what, done, total: None)
    await guard.aclose()
    return {"overall": report["overall"], "macro": report["macro"], "latency_ms": report["latency_ms"]}


def show(figures: dict[str, Any]) -> None:
    console = Console()
    costs = Table("one check", "pieces", "p50 ms", "p95 ms", "cpu ms")
    for name, row in figures["time"].items():
        numbers = (row.get(key) for key in ("p50_ms", "p95_ms", "cpu_ms"))
        costs.add_row(name, str(row.get("pieces", "")), *(f"{one:.2f}" if one else "" for one in numbers))
    console.print(costs)
    console.print(f"memory: {figures['memory']}")
    if "compared" in figures:
        table = Table("guard", *FIGURES, "p50 ms")
        for name, found in figures["compared"].items():
            rates = [found["overall"]["figures"][key]["value"] for key in FIGURES]
            table.add_row(name, *(f"{one:.3f}" for one in rates), f"{found['latency_ms']['p50']:.2f}")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/, dev/ and taxonomies.json")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="a hub id or a folder")
    parser.add_argument("--train-limit", type=int, default=4000, help="training rows of each source")
    parser.add_argument("--dev-limit", type=int, default=150, help="dev rows of each file")
    parser.add_argument("--out", type=Path, default=Path("out/embedded.json"))
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "time": asyncio.run(speed(load_policies("support").policies["support"])),
        "memory": memory(),
    }
    missing = [name for name in ("torch", "transformers", "sklearn") if find_spec(name) is None]
    if options.data is None or not options.data.is_dir() or missing:
        why = f"{', '.join(missing)} not installed" if missing else f"no folder {options.data}"
        print(f"comparison: SKIPPED, {why if options.data else 'no --data'}", file=sys.stderr)
    else:
        figures["compared"] = compared(options)
    show(figures)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=2, default=float) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
