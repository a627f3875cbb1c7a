"""Labelled safety data: rows of one schema, and the taxonomies that their labels belong to.

One row is an object with ``id, source, task, policy, prompt, content, label, categories, meta``: `content` is the
text that is judged, `policy` names a taxonomy of ``taxonomies.json``, `categories` are names of that taxonomy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_never

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from guardmw.errors import GuardmwError
from guardmw.types import Surface

__all__ = [
    "BENIGN",
    "UNSPECIFIED",
    "DatasetError",
    "Row",
    "Task",
    "Taxonomy",
    "read_taxonomies",
    "surface_of",
]

Task = Literal["prompt", "response", "tool_call", "tool_result", "trajectory"]
"""What the content of a row is: a user's `prompt`, a model's `response`, a `tool_call`, a `tool_result`, or the whole
`trajectory` of an agent's run."""

UNSPECIFIED = "unspecified"
"""The category of rows whose source doesn't say which one: nothing that a text could be judged by."""

BENIGN = "benign"
"""The policy of ordinary texts, which are safe under any; no taxonomy needs to have that name."""


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
