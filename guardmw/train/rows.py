"""Files of labelled rows, read with an account of every line that can't be used."""

from __future__ import annotations

import gzip
import lzma
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import ValidationError

from guardmw.train.dataset import BENIGN, UNSPECIFIED, DatasetError, Row, Taxonomy

__all__ = [
    "BYTE_ORDER_MARK", "NO_FILE", "PACKED_SUFFIXES", "SUFFIX", "Loaded", "Numbered", "Problem", "bad_share",
    "first_problem", "is_pipe", "kind_of", "listed", "misfit", "opened", "read_folder", "read_jsonl", "refuse_above",
    "refuse_pipe",
]  # fmt: skip

SUFFIX = ".jsonl"
PACKED_SUFFIXES = (".gz", ".xz")
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SHOWN_CHARS = 40
LISTED = 20
NOT_BENIGN = f"unknown taxonomy {BENIGN!r}: where none has that name, its rows must be labelled safe"
NO_FILE = "a pipe or a device, which can't be read more than once; save what it gives to a file first, and name that"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a row, or with `whole_file` the rest of a file, from being judged. `line` counts from 1."""

    file: str
    line: int | None
    what: str
    whole_file: bool = False

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.what}"


@dataclass(frozen=True, slots=True)
class Numbered:
    """A row and the line it stands on, counted from 1 (in files that have no lines: its place among the records)."""

    line: int
    row: Row


@dataclass(slots=True)
class Loaded:
    """What was read from one path: `files` files, one unless it is a folder. `taxonomies` are those that the format
    brings itself; `left_out` counts, by reason, what the format leaves aside by its own rules (a text without a label,
    say), which is nothing wrong."""

    rows: list[Numbered] = field(default_factory=list)
    taxonomies: dict[str, Taxonomy] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    files: int = 1


def read_folder(
    folder: Path, taxonomies: Mapping[str, Taxonomy], most_bad: float, tell: Callable[[str], None]
) -> list[Row]:
    """The rows of every ``*.jsonl`` in `folder`, packed with gzip or xz or not, files in order of their names. What
    can't be used is told, by file and line.

    A row's policy must be one of `taxonomies`, or "benign", and its categories that one's. Raises DatasetError when
    there is no such file, and when more than `most_bad` of the lines, or of the files, can't be used.
    """
    files = sorted(file for file in folder.glob("*") if kind_of(file) == SUFFIX and file.is_file())
    if not files:
        raise DatasetError(f"{folder}: no file *{SUFFIX}, packed with gzip or xz or not, here")
    rows: list[Row] = []
    problems: list[Problem] = []
    for file in files:
        loaded = read_jsonl(file)
        problems += loaded.problems
        for numbered in loaded.rows:
            if why := misfit(numbered.row, taxonomies):
                problems.append(Problem(str(file), numbered.line, why))
            else:
                rows.append(numbered.row)
    broken = sum(problem.whole_file for problem in problems)
    refuse_above(most_bad, bad_share(len(rows), len(problems) - broken, len(files), broken), problems)
    for line in listed(problems):
        tell(f"left out: {line.strip()}")
    return rows


def misfit(row: Row, taxonomies: Mapping[str, Taxonomy]) -> str | None:
    """Why `row` belongs to none of `taxonomies`: None when it does, or is an ordinary one."""
    taxonomy = taxonomies.get(row.policy)
    if taxonomy is None and row.policy == BENIGN:
        return NOT_BENIGN if row.unsafe else None
    if taxonomy is None:
        return f"unknown taxonomy {row.policy!r}"
    missing = [name for name in row.categories if name not in taxonomy.categories and name != UNSPECIFIED]
    return f"the taxonomy {row.policy!r} has no category {missing[0]!r}" if missing else None


def bad_share(rows: int, bad: int, files: int, broken: int) -> float:
    """The larger of the shares of bad lines and of files that couldn't be read whole (nobody knows how many rows those
    would have held); `rows` are the good lines."""
    return max(bad / (bad + rows) if bad + rows else 1.0, broken / files)


def refuse_above(most: float, share: float, problems: Sequence[Problem]) -> None:
    """Raises DatasetError, naming the first `problems`, when the `share` that can't be used is above `most`."""
    if share > most:
        raise DatasetError(
            f"{share:.2%} of the data can't be used, more than the {most:.2%} of --max-bad-share:\n"
            + "\n".join(listed(problems))
        )


def read_jsonl(file: Path) -> Loaded:
    """The rows of `file`; whether it is packed shows in its first bytes. Blank lines are no rows and no problem."""
    loaded, line = Loaded(), 0
    try:
        with opened(file) as lines:
            for line, text in enumerate(lines, 1):
                if text.strip():
                    _take(text.removeprefix(BYTE_ORDER_MARK) if line == 1 else text, line, file, loaded)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        what = f"the file can't be read beyond line {line}, and what follows is lost: {error}"
        loaded.problems.append(Problem(str(file), line + 1, what, whole_file=True))
    if not loaded.rows and not loaded.problems:
        loaded.problems.append(Problem(str(file), None, "the file holds no rows", whole_file=True))
    return loaded


def _take(text: bytes, line: int, file: Path, loaded: Loaded) -> None:
    try:
        loaded.rows.append(Numbered(line, Row.model_validate_json(text)))
    except ValidationError as error:
        loaded.problems.append(Problem(str(file), line, f"not a row: {first_problem(error)}"))


def opened(file: Path) -> BinaryIO:
    """The bytes of `file`, unpacked; whether it is packed shows in its first bytes. Raises OSError."""
    with file.open("rb") as raw:
        start = raw.read(len(XZ))
    if start.startswith(GZIP):
        return cast("BinaryIO", gzip.open(file, "rb"))
    return cast("BinaryIO", lzma.open(file, "rb")) if start == XZ else file.open("rb")


def kind_of(file: Path) -> str:
    """How the name of `file` ends, in lower case and without the ending of what it is packed with: ``.jsonl``."""
    name = file.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def listed(problems: Sequence[Problem], most: int = LISTED) -> Iterator[str]:
    """The first `most` problems, a line each, and how many more there are."""
    yield from (f"  {problem}" for problem in problems[:most])
    if len(problems) > most:
        yield f"  … and {len(problems) - most} more"


def is_pipe(path: Path) -> bool:
    """Whether `path` is there, but neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_pipe(path: Path) -> None:
    """Raises DatasetError when `is_pipe`: rows would be lost between two readings."""
    if is_pipe(path):
        raise DatasetError(f"{path}: {NO_FILE}")


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic objects to, with the value when it is a short one; never a row's text."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    given = f", not {first['input']!r:.{SHOWN_CHARS}}" if first["type"] == "literal_error" else ""
    return f"{where}: {first['msg']}{given}" if where else f"{first['msg']}{given}"
