"""Policy files read once each, and resolved: who extends whom, and what comes out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from guardmw.errors import PolicyError
from guardmw.policy.match import PlacedPolicy
from guardmw.policy.merge import inherit, twice_named
from guardmw.policy.problems import explain, nearest, raise_all
from guardmw.policy.schema import Policy
from guardmw.policy.yamltree import Node, plain, read_tree

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 4 * 1_048_576

# A file written again this soon after it was read may keep size and time: it is read once more to be sure.
_UNSETTLED_NS = 50_000_000

Stamp = tuple[object, ...]
Stamps = dict[Path, Stamp | None]
"""What files and directories looked like when they were read; None for those to read again in any case."""


def bundled_dir() -> Path:
    """The directory of the policies that come with guardmw.

    Raises PolicyError when the installation lacks it.
    """
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "policies", package.parent / "policies"):  # the wheel's place, the repository's
        if (directory / "base.yaml").is_file():
            return directory
    raise PolicyError("the bundled policies are missing", mend="Install guardmw again.", file=str(package / "policies"))


def bundled_ids() -> list[str]:
    """The ids of the policies that come with guardmw, sorted."""
    return [path.stem for path in yaml_files(bundled_dir())]


def yaml_files(directory: Path) -> list[Path]:
    """The policy files of `directory` itself, sorted. Raises PolicyError when it can't be listed."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except OSError as error:
        raise _unreadable(error, directory) from error


def stamp(path: Path) -> Stamp:
    """What tells that a file, or the listing of a directory, has changed."""
    try:
        if path.is_dir():
            return tuple(yaml_files(path))
        seen = path.stat()
    except (OSError, PolicyError) as error:
        return (str(error),)
    return (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino)


class Source:
    """One policy file, read but not resolved."""

    def __init__(self, tree: Node, directory: Path | None, problems: list[PolicyError]) -> None:
        self.tree, self.directory = tree, directory
        self.problems = [*problems, *twice_named(tree)]
        own_id = tree.child("id")
        self.id = str(own_id.value) if own_id else ""
        extends = tree.child("extends")
        self.extends = [item for item in extends.items() if isinstance(item.value, str)] if extends else []

    def placed(self, policy: Policy) -> PlacedPolicy:
        agents = self.tree.child("agents")
        lines = {f"agents.{place}": item.line for place, item in enumerate(agents.items() if agents else [])}
        own_id = self.tree.child("id")
        return PlacedPolicy(policy, self.tree.file, {**lines, "id": own_id.line if own_id else 1})


class Library:
    """Everything one load reads: each file once, its stamp noted in `stamps`."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._by_path: dict[Path, Source] = {}
        self._set: list[Source] = []

    def open(self, path: Path) -> Source:
        """The policy file at `path`. Raises PolicyError when it can't be read as a mapping."""
        key = path.resolve()
        if key not in self._by_path:
            self._by_path[key] = self.add(self._read(path), str(path), path.parent)
        return self._by_path[key]

    def add(self, text: str, name: str, directory: Path | None) -> Source:
        """The policy written in `text`. Raises PolicyError when it is no mapping."""
        tree, problems = read_tree(text, name)
        if not isinstance(tree.value, dict):
            mend = "Write `key: value` lines, `id:` first."
            raise PolicyError("a policy must be a mapping", mend=mend, file=name, line=tree.line)
        return Source(tree, directory, problems)

    def resolve(self, sources: list[Source]) -> list[PlacedPolicy]:
        """The policies of `sources`. Raises PolicyError with all problems of them and of those they extend."""
        self._set = sources
        problems: list[PolicyError] = []
        placed = [policy for source in sources if (policy := self._resolve_one(source, problems))]
        raise_all(problems)
        return placed

    def _resolve_one(self, source: Source, problems: list[PolicyError]) -> PlacedPolicy | None:
        try:
            lineage, whole = list(self._lineage(source, ())), True
        except PolicyError as error:
            problems.append(error)
            lineage, whole = [source], False
        problems += [problem for ancestor in lineage for problem in ancestor.problems]
        tree = inherit([ancestor.tree for ancestor in lineage])
        try:
            return source.placed(Policy.model_validate(plain(tree), strict=True))
        except ValidationError as invalid:
            problems += explain(invalid, tree, partial=not whole)
            return None

    def _lineage(self, source: Source, chain: tuple[Source, ...]) -> Iterator[Source]:
        """`source` and all it extends, each once, ancestors before descendants, in the order of `extends`.

        Each file is laid on once, so that of two parents with a common base the second doesn't undo, by what it
        merely inherited, what the first wrote.
        """
        seen: dict[int, Source] = {}
        for name in source.extends:
            parent = self._parent(source, name)
            if parent in (*chain, source):
                raise _cycle([*chain, source], parent, name)
            seen.update({id(one): one for one in self._lineage(parent, (*chain, source)) if id(one) not in seen})
        yield from seen.values()
        yield source

    def _parent(self, source: Source, name: Node) -> Source:
        wanted = str(name.value)
        for candidates in (iter(self._set), self._siblings(source, wanted), self._bundled(wanted)):
            for candidate in candidates:
                if candidate.id == wanted:
                    return candidate
        near = {one.id for one in [*self._set, *self._siblings(source, "")]}
        known = sorted({*near, *bundled_ids()} - {source.id, ""})
        raise PolicyError(
            f"{source.id!r} extends {wanted!r}, which is not known",
            mend=nearest(wanted, known, f"Known are {', '.join(known)}."),
            file=name.file,
            line=name.line,
            key="extends",
        )

    def _siblings(self, source: Source, wanted: str) -> Iterator[Source]:
        """The policies of the same directory, the file named like the wanted one first. Others that can't be read
        are passed over: they need have nothing to do with this set."""
        if source.directory is None:
            return
        self._stamps[source.directory] = stamp(source.directory)
        for path in sorted(yaml_files(source.directory), key=lambda path: path.stem != wanted):
            try:
                yield self.open(path)
            except PolicyError:
                if path.stem == wanted:
                    raise

    def _bundled(self, wanted: str) -> Iterator[Source]:
        if wanted in bundled_ids():
            yield self.open(bundled_dir() / f"{wanted}.yaml")

    def _read(self, path: Path) -> str:
        seen = stamp(path)
        unsettled = isinstance(seen[0], int) and abs(time.time_ns() - seen[0]) < _UNSETTLED_NS
        self._stamps[path] = None if unsettled else seen
        content = b""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES)
            return content.decode("utf-8-sig")
        except OSError as error:
            raise _unreadable(error, path) from error
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            mend = "Save the file as UTF-8."
            raise PolicyError(f"not UTF-8: {error.reason}", mend=mend, file=str(path), line=line) from error


def _unreadable(error: OSError, path: Path) -> PolicyError:
    mend = "Check that it is there and may be read."
    return PolicyError(f"can't be read: {error.strerror or error}", mend=mend, file=str(path))


def _cycle(chain: list[Source], parent: Source, name: Node) -> PolicyError:
    ids = [one.id for one in chain[chain.index(parent) :]] + [parent.id]
    return PolicyError(
        f"`extends` goes in a circle: {' -> '.join(ids)}",
        mend="Remove one of these steps.",
        file=name.file,
        line=name.line,
        key="extends",
    )
