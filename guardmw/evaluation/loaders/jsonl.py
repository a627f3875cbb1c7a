"""Format ``guardmw``: JSON lines of `guardmw.train.dataset.Row`, packed with gzip or xz or not."""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path

from pydantic import ValidationError

from guardmw.evaluation.loaders.base import Loaded, Numbered, Problem, first_problem
from guardmw.evaluation.loaders.records import opened
from guardmw.train.dataset import Row

__all__ = ["read_jsonl"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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
