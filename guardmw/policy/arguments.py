"""Conditions on the named arguments of a tool call."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardmw.policy.schema import Argument


@dataclass(frozen=True, slots=True)
class Broken:
    """Why arguments are not as a rule wants them, and what they would have to be."""

    why: str
    instead: str


def broken_arguments(conditions: dict[str, Argument], arguments: str) -> Broken | None:
    """What breaks the first condition that doesn't hold, or None. Never raises.

    Arguments that are no JSON object (a key given twice counts as none) meet no condition, nor does a missing one. Of
    a list or mapping, every value in it must meet the condition.
    """
    given = parse_arguments(arguments)
    if given is None:
        return Broken("the arguments are no JSON object", "Write the arguments as one JSON object.")
    for name, condition in conditions.items():
        why = _broken(condition, given[name]) if name in given else "is missing"
        if why:
            return Broken(f"the argument {name!r} {why}", _wanted(name, condition))
    return None


def _wanted(name: str, condition: Argument) -> str:
    """What `condition` allows, as a sentence."""
    wants = [f"match {condition.pattern!r}"] if condition.pattern is not None else []
    if condition.one_of is not None:
        wants.append(f"be one of {json.dumps(condition.one_of, ensure_ascii=False, default=str)}")
    if condition.minimum is not None:
        wants.append(f"be {condition.minimum:g} or more")
    if condition.maximum is not None:
        wants.append(f"be {condition.maximum:g} or less")
    return f"{name!r} must {' and '.join(wants or ['be given'])}."


def parse_arguments(arguments: str) -> dict[str, Any] | None:
    """`arguments` as the JSON object they are, or None."""
    try:
        parsed = json.loads(arguments.strip() or "{}", object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        # Readers differ in which of the two they take: the tool might see another value than this rule.
        raise ValueError("a key is given twice")
    return mapping


def _broken(condition: Argument, value: Any) -> str | None:
    """What is wrong with `value`, or None."""
    leaves = _leaves(value)
    if condition.one_of is not None and not _chosen(value, leaves, condition.one_of):
        return "is none of the allowed values"
    if not leaves and condition != Argument(one_of=condition.one_of):
        return "is empty"
    return next((why for leaf in leaves if (why := _broken_leaf(condition, leaf))), None)


def _chosen(value: Any, leaves: list[Any], options: Sequence[Any]) -> bool:
    def among(one: Any) -> bool:
        return any(_equal(one, option) for option in options)

    return among(value) or (bool(leaves) and all(among(leaf) for leaf in leaves))


def _broken_leaf(condition: Argument, value: Any) -> str | None:
    if condition.pattern is not None and not re.search(condition.pattern, _text(value)):
        return f"does not match {condition.pattern!r}"
    if condition.minimum is None and condition.maximum is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    if condition.minimum is not None and not value >= condition.minimum:
        return f"is below {condition.minimum:g}"
    if condition.maximum is not None and not value <= condition.maximum:
        return f"is above {condition.maximum:g}"
    return None


def _leaves(value: Any) -> list[Any]:
    """The plain values within `value`; a loop, since models can nest deeper than Python recurses."""
    leaves, waiting = [], [value]
    while waiting:
        match waiting.pop():
            case dict() as mapping:
                waiting.extend(mapping.values())
            case list() as items:
                waiting.extend(items)
            case leaf:
                leaves.append(leaf)
    return leaves


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _equal(value: Any, option: Any) -> bool:
    """Equality as JSON has it: true is not 1, and a list is a list however it is held."""
    if isinstance(value, list | tuple) and isinstance(option, list | tuple):
        return len(value) == len(option) and all(map(_equal, value, option))
    return isinstance(value, bool) == isinstance(option, bool) and bool(value == option)
