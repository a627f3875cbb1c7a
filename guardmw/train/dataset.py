"""Labelled safety data: gzipped JSON lines of one schema, and the taxonomies that their labels belong to.

One row is an object with ``id, source, task, policy, prompt, content, label, categories, meta``: `content` is the
text that is judged, `policy` names a taxonomy of ``taxonomies.json``, `categories` are names of that taxonomy.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_never

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from guardmw.errors import GuardmwError
from guardmw.types import Surface

__all__ = [
    "UNSPECIFIED",
    "DatasetError",
    "Row",
    "Task",
    "Taxonomy",
    "read_folder",
    "read_rows",
    "read_taxonomies",
    "surface_of",
]

Task = Literal["prompt", "response", "tool_call", "tool_result", "trajectory"]
"""What the content of a row is: a user's `prompt`, a model's `response`, a `tool_call`, a `tool_result`, or the whole
`trajectory` of an agent's run."""

UNSPECIFIED = "unspecified"
"""The category of rows whose source doesn't say which one: nothing that a text could be judged by."""

SUFFIX = ".jsonl.gz"


class DatasetError(GuardmwError):
    """Labelled data can't be read; says which file and line, and what is wrong there."""


class Meta(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    licence: str = "not stated"
    harmless_under: tuple[str, ...] = ()


class Row(BaseModel):
    """One labelled text."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    source: str
    task: Task
    policy: str
    prompt: str = ""
    content: str
    label: Literal["safe", "unsafe"]
    categories: tuple[str, ...] = ()
    meta: Meta = Meta()

    @property
    def unsafe(self) -> bool:
        return self.label == "unsafe"


class Taxonomy(BaseModel):
    """What a row's `policy` stands for; `categories` maps names to one-line definitions."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    judges: str
    unsafe_when: str
    categories: dict[str, str]


def surface_of(task: Task) -> Surface | None:
    """Where a text of this task would be met by a guard; None for whole trajectories, which a guard never sees."""
    match task:
        case "prompt":
            return "input"
        case "response":
            return "output"
        case "tool_call":
            return "tool_call"
        case "tool_result":
            return "tool_result"
        case "trajectory":
            return None
        case _:
            assert_never(task)


def read_folder(folder: Path) -> Iterator[Row]:
    """The rows of every ``*.jsonl.gz`` in `folder`, files in order of their names.

    Raises DatasetError when there is no such file, and as `read_rows` does.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise DatasetError(f"{folder}: no file *{SUFFIX} here. Give a folder of gzipped JSON lines.")
    for file in files:
        yield from read_rows(file)


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of one gzipped file of JSON lines, in its order; empty lines are skipped.

    Raises DatasetError, naming the line (counted from 1), at the first that is no row.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(line, file, number)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a readable gzip file of JSON lines: {error}") from error


def _row(line: str, file: Path, number: int) -> Row:
    try:
        return Row.model_validate_json(line)
    except ValidationError as error:
        raise DatasetError(f"{file}:{number}: not a row: {_first(error)}") from error


def read_taxonomies(file: Path) -> dict[str, Taxonomy]:
    """The taxonomies by name. Raises DatasetError when the file is missing or of another shape."""
    try:
        return TypeAdapter(dict[str, Taxonomy]).validate_json(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"{file}: can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise DatasetError(f"{file}: not a file of taxonomies: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
