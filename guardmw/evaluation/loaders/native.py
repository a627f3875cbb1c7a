"""What is common to the benchmarks' own formats: from records to rows, and what is said when a file is another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guardmw.evaluation.loaders.records import (
    SUFFIXES,
    Record,
    UnfitError,
    UnfitFileError,
    Unpack,
    listed,
    named_otherwise,
    read_records,
)
from guardmw.train.dataset import Row, Task, Taxonomy
from guardmw.train.rows import Loaded, Numbered, Problem, kind_of

__all__ = ["Benchmark", "Case", "LeftOut", "label_by_name"]

SHOWN_COLUMNS, SHOWN_CHARS = 12, 24


@dataclass(frozen=True, slots=True)
class Case:
    """One text of a record that is judged. `key` tells the cases of a record apart; `categories` are the benchmark's
    own words, and count for unsafe cases only."""

    task: Task
    content: str
    unsafe: bool
    prompt: str = ""
    categories: Sequence[str] = ()
    key: str = ""
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something the benchmark itself doesn't judge."""

    why: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A public benchmark's own format, and the Loader of its files.

    `columns` must be there; `cases` turns a record into what is judged and raises UnfitError where it can't; `folders`
    says that a folder of such files, at any depth, may be given. `licence` is the data's own.
    """

    name: str
    taxonomy: Taxonomy
    licence: str
    columns: tuple[str, ...]
    cases: Callable[[Record], Iterable[Case | LeftOut]]
    unpack: Unpack = listed
    folders: bool = False

    def __call__(self, path: Path) -> Loaded:
        """Reads one path. Never raises over what it holds."""
        members, others = self._members(path)
        loaded = Loaded(taxonomies={self.name: self.taxonomy}, files=max(1, len(members)))
        if others:
            loaded.left_out[named_otherwise(SUFFIXES)] = others
        for file in members:
            self._read(file, _label(file, path), loaded)
        if not loaded.rows and not loaded.problems:
            what = "nothing in it is judged" if loaded.left_out else "the file holds no rows"
            loaded.problems.append(Problem(str(path), None, what, whole_file=True))
        return loaded

    def _members(self, path: Path) -> tuple[list[Path], int]:
        """The files to read, and how many others stand beside them."""
        if not (self.folders and path.is_dir()):
            return [path], 0
        inside = sorted(file for file in path.rglob("*") if not file.is_dir())
        members = [file for file in inside if kind_of(file) in SUFFIXES]
        return members, len(inside) - len(members)

    def _read(self, file: Path, label: str, loaded: Loaded) -> None:
        shape_known = False
        for found in read_records(file, self.unpack):
            if isinstance(found, Problem):
                loaded.problems.append(found)
                continue
            if lacking := [column for column in self.columns if column not in found.fields]:
                loaded.problems.append(self._lacking(found, lacking) if shape_known else self._other_shape(found))
                if shape_known:
                    continue
                return
            shape_known = True
            try:
                self._take(found, label, loaded)
            except UnfitFileError as error:
                loaded.problems.append(Problem(str(file), None, str(error), whole_file=True))
                return

    def _lacking(self, record: Record, columns: Sequence[str]) -> Problem:
        return Problem(str(record.file), record.place, f"without {', '.join(columns)}")

    def _other_shape(self, record: Record) -> Problem:
        names = [f"{name!s:.{SHOWN_CHARS}}" for name in list(record.fields)[:SHOWN_COLUMNS]]
        more = ", …" if len(record.fields) > SHOWN_COLUMNS else ""
        what = (
            f"not a file of the format {self.name}: it needs {', '.join(self.columns)}; found {', '.join(names)}{more}"
        )
        return Problem(str(record.file), record.place, what, whole_file=True)

    def _take(self, record: Record, label: str, loaded: Loaded) -> None:
        try:
            cases = list(self.cases(record))
            rows = [self._row(case, f"{label}:{record.place}", loaded) for case in cases if isinstance(case, Case)]
        except UnfitFileError:
            raise
        except UnfitError as error:
            loaded.problems.append(Problem(str(record.file), record.place, str(error)))
        else:
            loaded.rows += [Numbered(record.place, row) for row in rows]
            loaded.left_out.update(case.why for case in cases if isinstance(case, LeftOut))

    def _row(self, case: Case, place: str, loaded: Loaded) -> Row:
        return Row.model_validate(
            {
                "id": f"{self.name}:{place}{case.key and f':{case.key}'}",
                "source": self.name,
                "task": case.task,
                "policy": self.name,
                "prompt": case.prompt,
                "content": case.content,
                "label": "unsafe" if case.unsafe else "safe",
                "categories": self._known(case.categories, loaded) if case.unsafe else (),
                "meta": {**case.meta, "licence": self.licence},
            }
        )

    def _known(self, names: Sequence[str], loaded: Loaded) -> tuple[str, ...]:
        """The taxonomy's own spelling of `names`. One that it lacks is counted and left off: the label still stands."""
        spelling = {_plain(name): name for name in self.taxonomy.categories}
        found = {name: spelling.get(_plain(name)) for name in names if name.strip()}
        lacking = (name for name, known in found.items() if known is None)
        loaded.left_out.update(f"category {name!r:.40} of a row that is judged" for name in lacking)
        return tuple(dict.fromkeys(known for known in found.values() if known is not None))


def _label(file: Path, path: Path) -> str:
    """How rows name their file: without folders, or from the folder that was given on."""
    return file.name if file == path else file.relative_to(path).as_posix()


def _plain(name: str) -> str:
    return re.sub(r"\W+", " ", name.replace("_", " ")).casefold().strip()


def label_by_name(record: Record, unsafe: Sequence[str], safe: Sequence[str]) -> bool:
    """Whether the rows of a file are unsafe where only its name says so. Raises UnfitFileError when it doesn't."""
    name = record.file.name.lower()
    if_unsafe, if_safe = any(word in name for word in unsafe), any(word in name for word in safe)
    if if_unsafe == if_safe:
        raise UnfitFileError(
            f"only the file's name tells the labels: it must hold {' or '.join(unsafe)} (unsafe)"
            f" or {' or '.join(safe)} (safe), and not both"
        )
    return if_unsafe
