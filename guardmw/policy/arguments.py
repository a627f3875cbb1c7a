"""Conditions on the named arguments of a tool call."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guardmw.policy.argschema import ArgumentSchema
from guardmw.policy.schema import Argument, ToolRule


@dataclass(frozen=True, slots=True)
class Broken:
    """Why arguments are not as a rule wants them, and what they would have to be."""

    why: str
    instead: str


class Conditions:
    """What a rule wants of the arguments, its schemas compiled. Safe to share between threads."""

    def __init__(self, rule: ToolRule) -> None:
        self._args = rule.args
        self._fits = {name: ArgumentSchema(one.fits) for name, one in rule.args.items() if one.fits is not None}
        self._whole = ArgumentSchema(rule.fits) if rule.fits is not None else None

    def broken_by(self, arguments: str) -> Broken | None:
        """What breaks the first condition that doesn't hold, or None. Quotes nothing of `arguments`. Never raises.

        Arguments that are no JSON object (a key given twice counts as none, nor are NaN and infinity JSON) meet no
        condition, nor does a missing one. Of a list or mapping, every value in it must meet the condition; a schema
        says itself what it wants of them.
        """
        given = parse_arguments(arguments)
        if given is None:
            return Broken("the arguments are no JSON object", "Write the arguments as one JSON object.")
        found = (self._broken_argument(name, given) for name in self._args)
        return next((broken for broken in found if broken), None) or self._broken_whole(given)

    def _broken_argument(self, name: str, given: Mapping[str, Any]) -> Broken | None:
        condition = self._args[name]
        why = _broken(condition, given[name]) if name in given else "is missing"
        if why:
            return Broken(f"the argument {name!r} {why}", _wanted(name, condition))
        schema = self._fits.get(name)
        at = schema.broken_at(given[name]) if schema is not None else None
        if schema is None or at is None:
            return None
        wanted = f"{name!r} must fit the JSON Schema {schema.shown(at)}."
        return Broken(f"the argument {name!r} does not fit its schema{_place(at)}", wanted)

    def _broken_whole(self, given: Mapping[str, Any]) -> Broken | None:
        at = self._whole.broken_at(given) if self._whole is not None else None
        if self._whole is None or at is None:
            return None
        wanted = f"The arguments must fit the JSON Schema {self._whole.shown(at)}."
        return Broken(f"the arguments do not fit the schema{_place(at)}", wanted)


def _place(at: Sequence[str | int]) -> str:
    return f" ({'.'.join(map(str, at))})" if at else ""


def _wanted(name: str, condition: Argument) -> str:
    """What `condition` allows, as a sentence."""
    wants = [f"match {condition.pattern!r}"] if condition.pattern is not None else []
    if condition.one_of is not None:
        wants.append(f"be one of {json.dumps(condition.one_of, ensure_ascii=False, default=str)}")
    if condition.minimum is not None:
        wants.append(f"be {condition.minimum:g} or more")
    if condition.maximum is not None:
        wants.append(f"be {condition.maximum:g} or less")
    if condition.fits is not None:
        wants.append("fit its schema")
    return f"{name!r} must {' and '.join(wants or ['be given'])}."


def parse_arguments(arguments: str) -> dict[str, Any] | None:
    """`arguments` as the JSON object they are, or None."""
    try:
        parsed = json.loads(
            arguments.strip() or "{}", object_pairs_hook=_each_key_once, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("JSON has no such number")
    return number


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
    if not leaves and (condition.pattern, condition.minimum, condition.maximum) != (None, None, None):
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
