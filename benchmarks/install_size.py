"""What guardmw[langgraph] adds to langchain + langgraph: packages and megabytes, the guard's own weights apart.

    python benchmarks/install_size.py [SITE_PACKAGES] [--json]

Reads the metadata of what is installed in SITE_PACKAGES (by default where this interpreter finds its packages), walks
the requirements of both sides, and reports the difference. Sizes are those of the files on disk, compiled ones too; an
editable install of guardmw has no files of its own.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WITHOUT = ("langchain", "langgraph")
WITH = ("guardmw[langgraph]",)
OURS, WEIGHTS = "guardmw", "guardmw/weights/"
MB = 1_000_000


@dataclass(frozen=True)
class Figures:
    before_packages: int
    before_bytes: int
    added_packages: int
    added_bytes: int
    weights_bytes: int
    packages: dict[str, int]


def closure(wanted: Iterable[str], installed: dict[str, Distribution]) -> set[str]:
    """Names of all that `wanted` (requirements, with extras) needs, itself included."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = str(canonicalize_name(requirement.name))
        for extra in {"", *requirement.extras}:
            if name in installed and (name, extra) not in seen:
                seen.add((name, extra))
                waiting += _required(installed[name], extra)
    return {name for name, _ in seen}


def _required(distribution: Distribution, extra: str) -> list[Requirement]:
    requirements = [Requirement(text) for text in distribution.requires or ()]
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": extra})]


def size(distribution: Distribution, *, apart: str = "\0") -> int:
    """Bytes of a distribution's files, those whose path starts with `apart` left out."""
    paths = [
        Path(str(distribution.locate_file(file)))
        for file in distribution.files or ()
        if not str(file).startswith(apart)
    ]
    return sum(path.stat().st_size for path in paths if path.is_file())


def measure(site_packages: Path) -> Figures:
    """The figures of the packages installed in `site_packages`, the largest addition first."""
    installed = {
        str(canonicalize_name(each.metadata["Name"])): each for each in distributions(path=[str(site_packages)])
    }
    before = closure(WITHOUT, installed)
    added = {name: size(installed[name], apart=WEIGHTS) for name in closure(WITH, installed) - before}
    return Figures(
        before_packages=len(before),
        before_bytes=sum(size(installed[name]) for name in before),
        added_packages=len(added),
        added_bytes=sum(added.values()),
        weights_bytes=size(installed[OURS]) - added[OURS],
        packages=dict(sorted(added.items(), key=lambda item: -item[1])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What guardmw[langgraph] adds to langchain + langgraph.")
    parser.add_argument("site_packages", nargs="?", type=Path, default=Path(sysconfig.get_path("purelib")))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    figures = measure(arguments.site_packages)
    if arguments.json:
        print(json.dumps(asdict(figures)))
        return
    print(f"langchain + langgraph  {figures.before_packages:3} packages {figures.before_bytes / MB:7.1f} MB")
    print(f"guardmw[langgraph] adds{figures.added_packages:3} packages {figures.added_bytes / MB:7.1f} MB")
    print(f"its own weights                     {figures.weights_bytes / MB:7.1f} MB")
    for name, taken in figures.packages.items():
        print(f"  {name:<34}{taken / MB:7.1f} MB")


if __name__ == "__main__":
    main()
