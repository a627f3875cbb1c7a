"""From paths to samples: rows with the rules they are judged under, and an account of every row that was left out."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardmw.evaluation.loaders import GUARDMW, read
from guardmw.evaluation.loaders.records import named_otherwise
from guardmw.evaluation.rules import RuleBook, Rules, UnfitRowError
from guardmw.train.dataset import DatasetError, Row, Taxonomy
from guardmw.train.rows import SUFFIX, Problem, bad_share, kind_of, listed, refuse_above

__all__ = ["Dataset", "File", "Sample", "data_files", "described", "read_data", "read_files"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to be judged, where it stands, and under which rules."""

    row: Row
    rules: Rules
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class File:
    """One path that was given: `rows` could be read, of which `judged` are judged; `bad` lines were left out. Of its
    `files` (a folder's members, else 1), `broken` could not be read whole."""

    path: str
    sha256: str
    rows: int
    judged: int
    bad: int
    broken: int
    files: int = 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """All there is to judge, and what was left out. `bad_share` is the larger of the shares of bad lines and of
    files that couldn't be read whole (nobody knows how many rows those would have held); `aside` counts, by reason,
    what a format leaves aside by its own rules, which is nothing bad."""

    samples: tuple[Sample, ...]
    files: tuple[File, ...]
    problems: tuple[Problem, ...]
    aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def bad_share(self) -> float:
        sums = (sum(getattr(file, name) for file in self.files) for name in ("rows", "bad", "files", "broken"))
        return bad_share(*sums)

    @property
    def reasons(self) -> dict[str, int]:
        """How often each kind of problem came, the most frequent first."""
        return dict(Counter(problem.what for problem in self.problems).most_common())

    def refuse_above(self, share: float) -> None:
        """Raises DatasetError, naming the first lines, when more than `share` of the data can't be used."""
        refuse_above(share, self.bad_share, self.problems)
        if not self.samples:
            raise DatasetError("\n".join(["the data hold no row to judge", *listed(self.problems)]))


def data_files(paths: Sequence[Path], format: str = GUARDMW) -> list[Path]:
    """The files that `paths` name, each once, folders of the project's own format opened. Raises DatasetError when one
    is missing or a folder holds none."""
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path}: there is no such file or folder")
        members = _members(path) if path.is_dir() and format == GUARDMW else [path]
        if not members:
            raise DatasetError(f"{path}: no file *{SUFFIX}, packed with gzip or xz or not, in this folder")
        for member in members:
            files.setdefault(member.resolve(), member)
    return list(files.values())


def _members(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if kind_of(file) == SUFFIX and not file.is_dir())


def _others(paths: Sequence[Path], files: Sequence[Path]) -> int:
    """How many files stand in the folders of `paths` that are none of `files`."""
    folders = [path for path in paths if path.is_dir()]
    inside = {file.resolve() for folder in folders for file in folder.iterdir() if file.is_file()}
    return len(inside - {file.resolve() for file in files})


@dataclass(frozen=True, slots=True)
class _Read:
    path: Path
    sha256: str
    rows: list[tuple[int, Row]]
    problems: list[Problem]
    aside: Counter[str]
    files: int


def read_files(paths: Sequence[Path], format: str) -> tuple[list[_Read], dict[str, Taxonomy]]:
    """Everything in `paths`, and the taxonomies that the format brings along. Raises DatasetError as `data_files` and
    `guardmw.evaluation.loaders.read`."""
    found, taxonomies = [], {}
    files = data_files(paths, format)
    for path in files:
        loaded = read(path, format)
        taxonomies.update(loaded.taxonomies)
        rows = [(numbered.line, numbered.row) for numbered in loaded.rows]
        found.append(_Read(path, _digest(path), rows, loaded.problems, loaded.left_out, loaded.files))
    if format == GUARDMW and (others := _others(paths, files)):
        found[0].aside[named_otherwise([SUFFIX])] = others
    return found, taxonomies


def read_data(found: Sequence[_Read], rules: RuleBook, *, limit: int | None = None, seed: int = 0) -> Dataset:
    """The samples of what was `found`; at most `limit` of each file, drawn with `seed` and kept in their order."""
    samples: list[Sample] = []
    files, problems = [], []
    aside: Counter[str] = Counter()
    for each in found:
        fit, unfit = _with_rules(each, rules)
        bad = [*each.problems, *unfit]
        chosen = _drawn(fit, limit, f"{seed}{each.path.name}")
        broken = sum(problem.whole_file for problem in bad)
        counts = len(fit), len(chosen), len(bad) - broken, broken, each.files
        files.append(File(str(each.path), each.sha256, *counts))
        samples += chosen
        problems += sorted(bad, key=lambda problem: problem.line or 0)
        aside += each.aside
    return Dataset(tuple(samples), tuple(files), tuple(problems), dict(aside.most_common()))


def _with_rules(found: _Read, rules: RuleBook) -> tuple[list[Sample], list[Problem]]:
    fit, unfit = [], []
    for line, row in found.rows:
        try:
            fit.append(Sample(row, rules.for_row(row), str(found.path), line))
        except UnfitRowError as error:
            unfit.append(Problem(str(found.path), line, str(error)))
    return fit, unfit


def _drawn(samples: list[Sample], limit: int | None, seed: str) -> list[Sample]:
    if limit is None or len(samples) <= limit:
        return samples
    places = random.Random(seed).sample(range(len(samples)), limit)  # noqa: S311
    return [samples[place] for place in sorted(places)]


def _digest(path: Path) -> str:
    """SHA-256 of a file, "" of one that can't be read; of a folder, that of its files' names and digests."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        lines = "".join(f"{file.relative_to(path)} {_digest(file)}\n" for file in inside)
        return hashlib.sha256(lines.encode()).hexdigest()
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""  # its loader says why


def described(dataset: Dataset) -> dict[str, Any]:
    """The account of the data for the report."""
    return {
        "files": [
            {"path": file.path, "sha256": file.sha256, "rows": file.rows, "judged": file.judged,
             "left_out": file.bad, "files": file.files, "broken": file.broken}
            for file in dataset.files
        ],
        "judged": len(dataset.samples),
        "left_out": len(dataset.problems),
        "left_out_share": dataset.bad_share,
        "left_out_why": dataset.reasons,
        "set_aside": dict(dataset.aside),
        "problems": [str(problem) for problem in dataset.problems[:1000]],
    }  # fmt: skip
