"""Deterministic rules over tool calls: names, arguments, and the order of calls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from guardmw.policy.schema import Argument, SequenceRule, ToolRule, Tools
from guardmw.types import ToolCall

RuleAction = Literal["allow", "check", "ask", "deny"]
"""`allow` and `deny` are final; `check` leaves it to the guard; `ask` to a person."""


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What the rules say to a call. `rule` names the one that decided: ``tool:<pattern>``, ``sequence:<name>`` or
    ``default``; `why` is a sentence for people and models."""

    action: RuleAction
    rule: str
    why: str


def decide_call(tools: Tools, call: ToolCall, history: Sequence[ToolCall]) -> RuleOutcome:
    """What `tools` says to `call`, after the calls of `history` (oldest first, `call` not among them).

    A broken sequence rule denies, whatever else is written; then the first rule whose pattern matches the call's name
    decides, else `tools.default`. Patterns are matched on names only, with case, and never on arguments. A rule with
    conditions on arguments takes `otherwise` when one is broken: the argument is missing, is of another kind, or the
    arguments are no JSON object (a key given twice counts as none). Of a list or mapping, every value in it must meet
    the condition. Linear in the history. Never raises.
    """
    for sequence in tools.sequences:
        if why := _broken_sequence(sequence, call.name, history):
            return RuleOutcome("deny", f"sequence:{sequence.name}", why)
    for rule in tools.rules:
        if fnmatchcase(call.name, rule.tool):
            return _apply(rule, call)
    return RuleOutcome(tools.default, "default", f"no rule names {call.name!r}")


def _broken_sequence(rule: SequenceRule, name: str, history: Sequence[ToolCall]) -> str | None:
    """Why a call of `name` breaks `rule`, or None."""
    if rule.after and rule.never and fnmatchcase(name, rule.never) and _count(rule.after, history):
        return f"{name!r} may not be called after {rule.after!r}"
    if rule.before and rule.require and fnmatchcase(name, rule.before) and not _count(rule.require, history):
        return f"{name!r} needs a call of {rule.require!r} before it"
    if rule.tool and rule.at_most is not None and fnmatchcase(name, rule.tool):
        made = _count(rule.tool, history)
        return f"{rule.tool!r} was called {made} times, {rule.at_most} at most" if made >= rule.at_most else None
    return None


def _count(pattern: str, history: Sequence[ToolCall]) -> int:
    return sum(fnmatchcase(call.name, pattern) for call in history)


def _apply(rule: ToolRule, call: ToolCall) -> RuleOutcome:
    name = f"tool:{rule.tool}"
    if not rule.args:
        return RuleOutcome(rule.action, name, f"the rule for {rule.tool!r} says {rule.action}")
    if why := _broken_arguments(rule.args, call.arguments):
        return RuleOutcome(rule.otherwise, name, why)
    return RuleOutcome(rule.action, name, f"the arguments are as the rule for {rule.tool!r} wants them")


def _broken_arguments(conditions: dict[str, Argument], arguments: str) -> str | None:
    given = _parse(arguments)
    if given is None:
        return "the arguments are no JSON object"
    for name, condition in conditions.items():
        if name not in given:
            return f"the argument {name!r} is missing"
        if why := _broken(condition, given[name]):
            return f"the argument {name!r} {why}"
    return None


def _parse(arguments: str) -> dict[str, Any] | None:
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
