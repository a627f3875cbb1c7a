"""Format ``guardmw``: JSON lines of `guardmw.train.dataset.Row`, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import ValidationError

from guardmw.evaluation.loaders.base import Loaded, Numbered, Problem, first_problem
from guardmw.train.dataset import Row

__all__ = ["read_jsonl"]

GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_jsonl(file: Path) -> Loaded:
    """The rows of `file`; whether it is gzipped shows in its first bytes. Blank lines are no rows and no problem."""
    loaded, line = Loaded(), 0
    try:
        with _opened(file) as lines:
            for line, text in enumerate(lines, 1):
                if text.strip():
                    _take(text.removeprefix(BYTE_ORDER_MARK) if line == 1 else text, line, file, loaded)
    except (OSError, EOFError, zlib.error) as error:
        what = f"the file can't be read beyond line {line}, and what follows is lost: {error}"
        loaded.problems.append(Problem(str(file), line + 1, what, whole_file=True))
    if not loaded.rows and not loaded.problems:
        loaded.problems.append(Problem(str(file), None, "the file holds no rows", whole_file=True))
    return loaded


def _opened(file: Path) -> BinaryIO:
    with file.open("rb") as raw:
        packed = raw.read(len(GZIP)) == GZIP
    return cast("BinaryIO", gzip.open(file, "rb")) if packed else file.open("rb")


def _take(text: bytes, line: int, file: Path, loaded: Loaded) -> None:
    try:
        loaded.rows.append(Numbered(line, Row.model_validate_json(text)))
    except ValidationError as error:
        loaded.problems.append(Problem(str(file), line, f"not a row: {first_problem(error)}"))
