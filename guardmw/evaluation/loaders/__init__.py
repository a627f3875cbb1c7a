"""Files of labelled texts, by format.

Formats of public benchmarks are described where they are read: `prompts`, `responses`, `agents`. A new one is a
`Benchmark` there; one of another kind, a function `Loader` in a module of its own and a name here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from guardmw.evaluation.loaders.agents import AGENTS
from guardmw.evaluation.loaders.prompts import PROMPTS
from guardmw.evaluation.loaders.responses import RESPONSES
from guardmw.train.dataset import DatasetError, Row, Taxonomy
from guardmw.train.rows import Loaded, Problem, read_jsonl, refuse_pipe

__all__ = ["FORMATS", "GUARDMW", "Loaded", "Loader", "Problem", "load", "read"]

Loader: TypeAlias = Callable[[Path], Loaded]
"""Reads one path. Never raises over what the path holds: that is a `Problem`, with its line."""

GUARDMW = "guardmw"

FORMATS: dict[str, Loader] = {
    GUARDMW: read_jsonl,
    **{benchmark.name: benchmark for benchmark in (*PROMPTS, *RESPONSES, *AGENTS)},
}
"""Every format by its name."""


def read(path: Path, format: str = GUARDMW) -> Loaded:
    """What `path` holds, with everything that is wrong in it. Raises DatasetError when there is no such format,
    and when `path` is neither a file nor a folder."""
    if format not in FORMATS:
        raise DatasetError(f"there is no format {format!r}; formats known: {', '.join(FORMATS)}")
    refuse_pipe(path)
    return FORMATS[format](path)


def load(path: Path, format: str = GUARDMW) -> tuple[list[Row], dict[str, Taxonomy]]:
    """The rows of `path`, and the taxonomies that the format brings along (guardmw's own: none).

    Raises DatasetError as `read` does and, naming file and line, when anything in it is wrong.
    """
    loaded = read(path, format)
    if loaded.problems:
        raise DatasetError("\n".join(map(str, loaded.problems)))
    return [numbered.row for numbered in loaded.rows], loaded.taxonomies
