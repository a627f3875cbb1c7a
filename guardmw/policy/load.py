"""Reading policies from files, directories, bundled ids and text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from guardmw.errors import PolicyError
from guardmw.policy.library import Library, Stamps, bundled_dir, bundled_ids, stamp, yaml_files
from guardmw.policy.match import PlacedPolicy, PolicySet
from guardmw.policy.problems import nearest
from guardmw.policy.schema import Policy

__all__ = ["AnyPath", "as_policy_set", "bundled_dir", "bundled_ids", "load_policies", "parse_policy"]

AnyPath: TypeAlias = "str | os.PathLike[str]"


def load_policies(*paths: AnyPath) -> PolicySet:
    """The policies in `paths`: files, directories (their ``*.yaml`` and ``*.yml``), or ids of bundled policies.

    A plain name (no separator, no suffix) that is no existing file is looked up among the bundled policies first.
    `extends` finds policies of the same set, of the extending file's directory, and bundled ones, in this order.
    Policies only inherited from don't belong to the set. `PolicySet.reload` reads the same paths again.

    Raises PolicyError naming file, line, key and the mend; with several problems, the message lists all of them.
    """
    return PolicySet(source=_Files([os.fspath(path) for path in paths]))


def parse_policy(text: str, *, name: str = "<string>", directory: AnyPath | None = None) -> Policy:
    """The policy written in `text`. Errors call it `name`; `extends` finds policies in `directory` and bundled ones.

    Raises PolicyError as `load_policies` does.
    """
    library = Library({})
    source = library.add(text, name, Path(directory) if directory is not None else None)
    return library.resolve([source])[0].policy


def as_policy_set(policy: Policy | PolicySet | AnyPath) -> PolicySet:
    """`policy` as a set: a PolicySet as it is, a Policy as a set of one, a path or bundled id loaded.

    Raises PolicyError as `load_policies` does.
    """
    match policy:
        case PolicySet():
            return policy
        case Policy():
            return PolicySet([policy])
        case _:
            return load_policies(policy)


class _Files:
    """The policies of some paths, and what the files looked like when they were read."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._stamps: Stamps = {}

    def load(self) -> list[PlacedPolicy]:
        stamps: Stamps = {}
        self._stamps = stamps
        library = Library(stamps)
        return library.resolve([library.open(file) for file in self._expand(stamps)])

    def changed(self) -> bool:
        return any(seen is None or stamp(path) != seen for path, seen in self._stamps.items())

    def _expand(self, stamps: Stamps) -> list[Path]:
        found: dict[Path, Path] = {}
        for given in self._paths:
            path = _find(given)
            stamps[path] = stamp(path)
            for file in _members(path, given):
                found.setdefault(file.resolve(), file)
        return list(found.values())


def _find(given: str) -> Path:
    path = Path(given)
    plain_name = path.name == given and not path.suffix
    if plain_name and not path.is_file() and given in bundled_ids():
        return bundled_dir() / f"{given}.yaml"
    return path


def _members(path: Path, given: str) -> list[Path]:
    if not given or not path.is_dir():
        if given and path.exists():
            return [path]
        mend = nearest(given, bundled_ids(), f"Give a file, a directory, or one of {', '.join(bundled_ids())}.")
        raise PolicyError("no such policy file, directory or bundled policy", mend=mend, file=given)
    files = yaml_files(path)
    if not files:
        raise PolicyError("the directory holds no policies", mend="Put *.yaml files there.", file=given)
    return files
