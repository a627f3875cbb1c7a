"""Records of native files: CSV, JSON lines, JSON and Parquet by the file's name; gzip and xz by its first bytes.

A record knows its place and gives its fields checked: a field of another kind is an UnfitError that names the field and
never shows a text.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import lzma
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from guardmw.train.rows import BYTE_ORDER_MARK, NO_FILE, Problem, is_pipe, kind_of, opened

__all__ = [
    "SUFFIXES", "Record", "UnfitError", "UnfitFileError", "Unpack", "listed", "named_otherwise", "read_records",
]  # fmt: skip

T = TypeVar("T")
Unpack = Callable[[Any], list[Any]]
"""The records within one JSON document. Raises UnfitError when it is of another shape."""

BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, csv.Error, ValueError, NotImplementedError, RecursionError)
LONGEST_CELL = 1 << 27
SHOWN_CHARS = 40
TRUE, FALSE = (True, 1, "1", "true", "True", "TRUE", "1.0"), (False, 0, "0", "false", "False", "FALSE", "0.0")


class UnfitError(ValueError):
    """A record can't be used; the message says why."""


class UnfitFileError(UnfitError):
    """No record of the file can be used."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `place` is the line it begins on, in JSON documents and Parquet its number, both counted from 1."""

    file: Path
    place: int
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A text that must be there, "" allowed."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise UnfitError(f"{name}: a text is needed, not {_kind(value)}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UnfitError(f"{name}: half a character (a lone surrogate) at {error.start}") from None
        return value

    def optional(self, name: str) -> str:
        """A text, or "" where the field is missing or empty in the manner of the file's kind (null, NaN)."""
        return "" if _absent(self.fields.get(name)) else self.text(name)

    def flag(self, name: str) -> bool:
        """True or false, also written as 1 and 0 and as words."""
        value = self.fields.get(name)
        if isinstance(value, bool | int | float | str):
            if value in TRUE:
                return True
            if value in FALSE:
                return False
        raise UnfitError(f"{name}: true or false is needed, not {_shown(value)}")

    def choice(self, name: str, choices: Mapping[str, T]) -> T:
        """What `choices` gives for a word."""
        value = self.fields.get(name)
        if not isinstance(value, str) or value not in choices:
            raise UnfitError(f"{name}: {' or '.join(choices)} is needed, not {_shown(value)}")
        return choices[value]

    def flagged(self, name: str) -> tuple[str, ...]:
        """The names that are true in an object of names; none where the field is missing."""
        value = self.fields.get(name)
        if _absent(value):
            return ()
        if not isinstance(value, dict):
            raise UnfitError(f"{name}: an object of names with true or false is needed, not {_kind(value)}")
        return tuple(key for key in value if Record(self.file, self.place, value).flag(key))

    def list(self, name: str) -> list[Any]:
        """A list that must be there."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise UnfitError(f"{name}: a list is needed, not {_kind(value)}")
        return value

    def within(self, value: object, name: str) -> Record:
        """A part of this record, of which `name` tells in errors where it stands."""
        if not isinstance(value, dict):
            raise UnfitError(f"{name}: an object is needed, not {_kind(value)}")
        return Record(self.file, self.place, value)


def _absent(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _shown(value: object) -> str:
    return f"{value!r:.{SHOWN_CHARS}}" if isinstance(value, str | int | float) else _kind(value)


def listed(document: object) -> list[Any]:
    """The records of a JSON list, or a single object."""
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        return [document]
    raise UnfitError(f"a list of objects is needed, not {_kind(document)}")


def named_otherwise(suffixes: Iterable[str]) -> str:
    """Why a file of a folder is set aside."""
    return f"a file in a folder whose name doesn't end in {' or '.join(suffixes)}, packed or not"


def read_records(file: Path, unpack: Unpack = listed) -> Iterator[Record | Problem]:
    """The records of `file` in its order, and a Problem for each that is none; the last is one of the whole file when
    it can't be read to its end. Blank lines are neither. Never raises over what the file holds."""
    reader = READERS.get(kind_of(file))
    if is_pipe(file):
        yield Problem(str(file), None, NO_FILE, whole_file=True)
        return
    if reader is None:
        yield Problem(str(file), None, f"a file *{' or *'.join(SUFFIXES)} is needed", whole_file=True)
        return
    try:
        yield from reader(file, unpack)
    except BROKEN as error:
        yield Problem(str(file), None, f"the file can't be read to its end: {error}", whole_file=True)


def _csv(file: Path, _: Unpack) -> Iterator[Record | Problem]:
    csv.field_size_limit(LONGEST_CELL)
    with io.TextIOWrapper(opened(file), encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        begins = 1 + (rows.fieldnames is not None and rows.line_num)
        for row in rows:
            if None in row or None in row.values():
                yield Problem(str(file), begins, f"not as many cells as the header's {len(rows.fieldnames or ())}")
            else:
                yield Record(file, begins, row)
            begins = rows.line_num + 1


def _json_lines(file: Path, _: Unpack) -> Iterator[Record | Problem]:
    with opened(file) as lines:
        yield from _lines(file, lines)


def _lines(file: Path, lines: Iterable[bytes]) -> Iterator[Record | Problem]:
    for line, text in enumerate(lines, 1):
        plain = text.removeprefix(BYTE_ORDER_MARK) if line == 1 else text
        if plain.strip():
            try:
                yield _record(file, line, json.loads(plain))
            except (ValueError, RecursionError) as error:
                yield Problem(str(file), line, f"not a JSON object: {error}")


def _json(file: Path, unpack: Unpack) -> Iterator[Record | Problem]:
    with opened(file) as document:
        content = document.read()
    try:
        found = unpack(json.loads(content))
    except UnfitError:
        raise
    except ValueError:
        lines = content.splitlines()
        if not _begins_with_an_object(lines):
            raise
        yield from _lines(file, lines)
        return
    yield from _numbered(file, found)


def _begins_with_an_object(lines: list[bytes]) -> bool:
    """Whether a file that is no JSON document looks like JSON lines under a name of its own."""
    first = next((line for line in lines if line.strip()), b"")
    try:
        return len(lines) > 1 and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _parquet(file: Path, _: Unpack) -> Iterator[Record | Problem]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        what = "Parquet needs pyarrow: pip install pyarrow, or convert the file to *.jsonl or *.csv"
        yield Problem(str(file), None, what, whole_file=True)
        return
    yield from _numbered(file, parquet.read_table(file).to_pylist())


def _numbered(file: Path, found: Iterable[object]) -> Iterator[Record | Problem]:
    for place, fields in enumerate(found, 1):
        try:
            yield _record(file, place, fields)
        except UnfitError as error:
            yield Problem(str(file), place, str(error))


def _record(file: Path, place: int, fields: object) -> Record:
    if not isinstance(fields, dict):
        raise UnfitError(f"an object is needed, not {_kind(fields)}")
    return Record(file, place, fields)


READERS: dict[str, Callable[[Path, Unpack], Iterator[Record | Problem]]] = {
    ".csv": _csv, ".jsonl": _json_lines, ".json": _json, ".parquet": _parquet
}  # fmt: skip
SUFFIXES = tuple(READERS)
