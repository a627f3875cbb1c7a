"""YAML as a tree in which every value knows its file and line.

Only the plain part of YAML is read: mappings, lists and scalars. Aliases are refused, since a few lines of them can
unfold into gigabytes; so are tags, and keys given twice, of which YAML itself silently keeps the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from guardmw.errors import PolicyError

MAX_FILE_CHARS = 1_048_576
MAX_DEPTH = 24

Scalar = str | int | float | bool | None
Path = tuple[str | int, ...]

# libyaml is ten times faster, but PyYAML may be built without it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = Resolver()
_CONSTRUCTOR = SafeConstructor()


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a policy file. `line` (counted from 1) is its key's line, or its own where it has no key."""

    value: dict[str, Node] | list[Node] | Scalar
    file: str
    line: int

    def child(self, key: str | int) -> Node | None:
        """The value under `key` (of a mapping) or at that index (of a list); None when there is none."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def children(self) -> dict[str, Node]:
        """The entries of a mapping; nothing for other values."""
        return self.value if isinstance(self.value, dict) else {}

    def items(self) -> list[Node]:
        """The items of a list; nothing for other values."""
        return self.value if isinstance(self.value, list) else []


def plain(node: Node) -> Any:
    """`node` as plain Python values; lists become tuples, which is what the frozen models hold."""
    match node.value:
        case dict() as entries:
            return {key: plain(child) for key, child in entries.items()}
        case list() as items:
            return tuple(plain(item) for item in items)
        case scalar:
            return scalar


def dotted(path: Path) -> str | None:
    """`path` as users read it, such as ``categories.0.block_above``; None for the root."""
    return ".".join(str(step) for step in path) or None


def read_tree(text: str, file: str) -> tuple[Node, list[PolicyError]]:
    """The tree of `text`, and the problems that don't hinder reading on (keys given twice).

    Raises PolicyError when the text is no YAML, empty, too long or too deep, holds several documents, or uses
    aliases or tags.
    """
    if len(text) > MAX_FILE_CHARS:
        raise PolicyError(
            f"the file has {len(text)} characters, more than {MAX_FILE_CHARS}", mend="Split the policy.", file=file
        )
    try:
        reader = _Reader(text, file)
        return reader.document(), reader.problems
    except yaml.YAMLError as error:
        raise _not_yaml(error, file) from error
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise PolicyError("not valid Unicode", mend="Remove the surrogate.", file=file, line=line) from error


def _not_yaml(error: yaml.YAMLError, file: str) -> PolicyError:
    mark: Any = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark:
        mend = "Check the indentation, quotes and brackets on this line and the one before."
        line = mark.line + 1
        return PolicyError(f"not valid YAML: {getattr(error, 'problem', '')}", mend=mend, file=file, line=line)
    reason = getattr(error, "reason", "unreadable")
    mend = "Save the file as plain UTF-8 text without control characters."
    return PolicyError(f"not valid YAML: {reason}", mend=mend, file=file)


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[PolicyError] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)

    def document(self) -> Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise PolicyError(
                "the file is empty", mend="Write at least `id:` and one category.", file=self.file, line=1
            )
        root = self._node(next(self._events), (), None)
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._error(after, (), "a second document starts here", "Keep one policy per file.")
        return root

    def _node(self, event: Any, path: Path, line: int | None) -> Node:
        line = line or _line(event)
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, path, "aliases (`*name`) are not allowed", "Write the value out.")
        if event.tag:
            raise self._error(event, path, f"tags ({event.tag}) are not allowed", "Write the plain value.")
        if len(path) > MAX_DEPTH:
            raise self._error(event, path[:3], f"nested more than {MAX_DEPTH} deep", "Policies are shallower.")
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._mapping(path), self.file, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._sequence(path), self.file, line)
        return Node(self._scalar(event, path), self.file, line)

    def _mapping(self, path: Path) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, path, "a key must be plain text", "Give the key a name.")
            key = event.value  # as written: `on` and `yes` are names here, not booleans
            value = self._node(next(self._events), (*path, key), _line(event))
            if key in entries:
                first = entries[key].line
                problem = f"the key {key!r} is given twice, first on line {first}"
                self.problems.append(self._error(event, (*path, key), problem, "Keep one of them."))
            entries[key] = value
        return entries

    def _sequence(self, path: Path) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), None))
        return items

    def _scalar(self, event: Any, path: Path) -> Scalar:
        try:
            return _resolve(event.value, event.implicit)
        except ValueError as error:
            raise self._error(event, path, f"{event.value[:40]!r} is no usable number", "Write it plainly.") from error

    def _error(self, event: Any, path: Path, problem: str, mend: str) -> PolicyError:
        return PolicyError(problem, mend=mend, file=self.file, line=_line(event), key=dotted(path))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _resolve(text: str, implicit: tuple[bool, bool]) -> Scalar:
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, implicit)  # type: ignore[no-untyped-call]
    node = yaml.ScalarNode(tag, text)
    match tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return bool(_CONSTRUCTOR.construct_yaml_bool(node))
        case "int":
            return int(_CONSTRUCTOR.construct_yaml_int(node))
        case "float":
            return _number(float(_CONSTRUCTOR.construct_yaml_float(node)))
        case _:  # dates too stay the text they are
            return text


def _number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("nan compares with nothing")
    return value
