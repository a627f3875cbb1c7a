"""What detection costs: microseconds for each delta of a stream, megabytes a second for whole texts, per entity set.

    python benchmarks/detectors.py [--out out/detectors.json] [--rounds 5]

The text is made up here: prose, some code and numbers, and one detectable value in about a thousand characters.
Each figure is the best of `rounds` runs in one thread; times are processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
from functools import partial
from pathlib import Path
from typing import get_args

from guardmw.policy.detectors import DetectorSet, detectors_for
from guardmw.policy.schema import (
    Detectors,
    PatternDetector,
    PiiDetector,
    PiiEntity,
    Policy,
    SecretEntity,
    SecretsDetector,
)
from timing import best_s

PROSE = (
    "Thanks for writing to us! Your parcel left the warehouse on 17 May 2024 and should arrive in 3 to 5 days - "
    "if it doesn't, reply here. The key point is that access to the account stays open; nobody needs a token for it. "
    "Prices start at 12.50 and go up to 1,999.00, see page 12 of the list (version 2.1). "
    "def total(items): return sum(item.price * item.count for item in items if item.count > 0)\n"
)
VALUES = "Write to jane@example.com or call +44 20 7946 0958, and never share password: hunter2 with anyone. "
TEXT = (PROSE * 2 + VALUES) * 100
SETS: dict[str, Detectors] = {
    "pii (default)": Detectors(pii=PiiDetector()),
    "pii (all)": Detectors(pii=PiiDetector(entities=get_args(PiiEntity))),
    "secrets (default)": Detectors(secrets=SecretsDetector()),
    "secrets (all)": Detectors(secrets=SecretsDetector(entities=get_args(SecretEntity))),
    "pii + secrets": Detectors(pii=PiiDetector(), secrets=SecretsDetector()),
    "pii + secrets + pattern": Detectors(
        pii=PiiDetector(), secrets=SecretsDetector(), patterns=(PatternDetector(id="staff", pattern=r"\bEMP-\d{6}\b"),)
    ),
}
DELTAS_CHARS = (4, 40, 200)
HOSTILE = ("a", "1", "-", "@", "4444 ", "(415) ", "key=", "password: ", "-----BEGIN PRIVATE KEY-----\n", "\u200b")
"""Pieces that, repeated, make patterns try hard."""


def stream(detectors: DetectorSet, text: str, delta_chars: int) -> int:
    """Scans `text` as it grows by `delta_chars`; returns how many scans that took."""
    settled = 0
    cuts = range(delta_chars, len(text), delta_chars)
    for cut in cuts:
        settled = detectors.scan(text[:cut], settled, final=False).settled
    detectors.scan(text, settled)
    return len(cuts) + 1


def measure(name: str, rounds: int) -> dict[str, float | str]:
    detectors = detectors_for(Policy(id="bench", detectors=SETS[name]), "output")
    row: dict[str, float | str] = {"set": name}
    for delta_chars in DELTAS_CHARS:
        text = TEXT[: 300 * delta_chars]
        scans = stream(detectors, text, delta_chars)
        took_s = best_s(partial(stream, detectors, text, delta_chars), rounds)
        row[f"us_per_{delta_chars}_chars"] = 1e6 * took_s / scans
    row["mb_per_s"] = len(TEXT) / 1e6 / best_s(lambda: detectors.scan(TEXT), rounds)
    return row


def measure_hostile(piece: str) -> dict[str, float | str]:
    """Two sizes of the same text: linear work gives both the same speed."""
    detectors = detectors_for(Policy(id="bench", detectors=SETS["pii + secrets"]), "output")
    row: dict[str, float | str] = {"text": repr(piece)}
    for size in (50_000, 200_000):
        text = piece * (size // len(piece))
        row[f"mb_per_s_of_{size // 1000}_kB"] = len(text) / 1e6 / best_s(partial(detectors.scan, text), 1)
    return row


def show(rows: list[dict[str, float | str]]) -> None:
    first, *columns = rows[0]
    print(f"{first:34}" + "".join(f"{column:>22}" for column in columns))
    for row in rows:
        print(f"{row[first]:34}" + "".join(f"{row[column]:22.1f}" for column in columns))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/detectors.json"), help="where the JSON report goes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = [measure(name, arguments.rounds) for name in SETS]
    show(rows)
    hostile = [measure_hostile(piece) for piece in HOSTILE]
    show(hostile)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"python": platform.python_version(), "rows": rows, "hostile": hostile}, indent=2) + "\n"
    )
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
