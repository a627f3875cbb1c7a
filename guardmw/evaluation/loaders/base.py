"""What a loader gives: rows with their lines, taxonomies that came along, and everything that was wrong."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pydantic import ValidationError

from guardmw.train.dataset import DatasetError, Row, Taxonomy

__all__ = ["NO_FILE", "Loaded", "Loader", "Numbered", "Problem", "first_problem", "is_pipe", "refuse_pipe"]

SHOWN_CHARS = 40
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


Loader: TypeAlias = Callable[[Path], Loaded]
"""Reads one path. Never raises over what the path holds: that is a `Problem`, with its line."""


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
