"""Inheritance: a policy's file laid over those it extends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

from guardmw.errors import PolicyError
from guardmw.policy.yamltree import Node, Path, dotted

OWN_KEYS = ("id", "description", "agents", "extends")
"""Never inherited."""

KEYED_LISTS: dict[Path, str] = {
    ("categories",): "id",
    ("detectors", "patterns"): "id",
    ("tools", "sequences"): "name",
}
"""Lists whose entries are merged by name, and the key that names them."""

CHILD_FIRST: Path = ("tools", "rules")
"""The list in which what is inherited is appended: the first matching rule wins, so the child's come first."""


def inherit(lineage: Sequence[Node]) -> Node:
    """One tree out of `lineage`, ancestors first and the policy itself last.

    Mappings merge deeply, later ones winning; KEYED_LISTS merge entry by entry; `tools.rules` puts later rules before
    earlier ones; any other list replaces. OWN_KEYS are taken from the last tree only.
    """
    *ancestors, own = lineage
    heritage = [
        Node({k: v for k, v in tree.children().items() if k not in OWN_KEYS}, tree.file, 1) for tree in ancestors
    ]
    return reduce(lambda base, over: _lay(base, over, ()), [*heritage, own])


def twice_named(tree: Node) -> Iterator[PolicyError]:
    """One error for every entry of a KEYED_LIST whose name an earlier entry of the same file has."""
    for path, key in KEYED_LISTS.items():
        seen: dict[object, int] = {}
        for index, item in enumerate(_at(tree, path)):
            name = _name(item, key)
            if name in seen:
                yield PolicyError(
                    f"{path[-1]} holds {name!r} twice, first on line {seen[name]}",
                    mend="Rename one of them, or join the two.",
                    file=item.file,
                    line=item.child(key).line,  # type: ignore[union-attr]  # a name was read from it
                    key=dotted((*path, index, key)),
                )
            elif name is not None:
                seen[name] = item.line


def _at(tree: Node, path: Path) -> list[Node]:
    node: Node | None = tree
    for step in path:
        node = node.child(step) if node else None
    return node.items() if node else []


def _lay(base: Node, over: Node, path: Path) -> Node:
    match base.value, over.value:
        case dict() as below, dict() as above:
            shared = {key: _lay(below[key], above[key], (*path, key)) for key in above if key in below}
            return Node({**below, **above, **shared}, over.file, over.line)
        case list() as below, list() as above if path == CHILD_FIRST:
            return Node([*above, *below], over.file, over.line)
        case list() as below, list() as above if path in KEYED_LISTS:
            return Node(_lay_entries(below, above, path), over.file, over.line)
    return over


def _lay_entries(below: list[Node], above: list[Node], path: Path) -> list[Node]:
    merged, key = list(below), KEYED_LISTS[path]
    places = {_name(item, key): index for index, item in enumerate(below)}
    for item in above:
        place = places.get(name) if (name := _name(item, key)) is not None else None
        if place is None:
            merged.append(item)
        else:
            merged[place] = _lay(merged[place], item, (*path, place))
    return merged


def _name(item: Node, key: str) -> str | None:
    name = item.child(key)
    return name.value if name and isinstance(name.value, str) else None
