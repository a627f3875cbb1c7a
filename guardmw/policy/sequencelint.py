"""Sequence rules that contradict each other, or the rules beside them: tools that can never be called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Literal

from guardmw.policy.globs import is_glob, overlap
from guardmw.policy.schema import Policy, SequenceRule

Severity = Literal["error", "warning"]
"""`error`: part of the policy can't work as written; `warning`: it works, and may surprise."""

Remarks = Iterator[tuple[str, str, Severity]]
"""(key, message, severity) of each remark."""


def contradicting_sequences(policy: Policy) -> Remarks:
    """What can't be meant: tools that no order of calls ever reaches, rules that say the same twice or nothing."""
    sequences = policy.tools.sequences
    reached = _reachable(policy)
    for rule in sequences:
        key = f"tools.sequences.{rule.name}"
        if rule.at_most == 0:
            message = f"{rule.tool} may never be called: `action: deny` says so more plainly"
            yield key, message, "warning"
        if (why := _impossible(rule, policy, reached)) or (why := _barred(rule, policy)):
            yield key, why, "error"
        if rule.taint is not None and _covers(rule.never_into, rule.taint):
            message = f"{rule.taint} may be called once: what it returned must not reach itself"
            yield key, message, "warning"
        if rule.tool and rule.at_most and (other := _limit_below(rule, sequences)):
            yield key, f"never reached: {other.name} allows {other.at_most} calls only", "warning"


def _impossible(rule: SequenceRule, policy: Policy, reached: frozenset[str]) -> str | None:
    """Why what `rule` stands before can never be called, for want of what it requires."""
    if rule.before is None or rule.require is None:
        return None
    if _covers(rule.before, rule.require):
        return f"{rule.before} needs itself first: it never runs"
    if _denied(rule.require, policy):
        return f"{rule.before} needs {rule.require}, which the rules deny: it never runs"
    if none := next(
        (one for one in policy.tools.sequences if one.at_most == 0 and _covers(one.tool, rule.require)), None
    ):
        return f"{rule.before} needs {rule.require}, of which {none.name} allows no call: it never runs"
    if circle := _circle(rule, policy.tools.sequences):
        return f"{' needs '.join(circle)}: none of them ever runs"
    if not any(fnmatchcase(name, rule.require) for name in reached):
        return f"{rule.before} needs {rule.require}, which itself can never be called: it never runs"
    return None


def _barred(rule: SequenceRule, policy: Policy) -> str | None:
    """Why what `rule` stands before is forbidden by the time it has all that it needs."""
    if rule.before is None or rule.require is None:
        return None
    bars = [bar for bar in policy.tools.sequences if _first(bar) is not None]
    for bar in bars:
        if _covers(_then(bar), rule.before) and _covers(_first(bar), rule.require):
            return f"{rule.before} needs {rule.require} first, and {bar.name} forbids it after that: it never runs"
    needed = _needed(rule.before, policy.tools.sequences)
    for bar in bars:
        if _covers(_then(bar), rule.before) and (first := _one_covered(_first(bar), needed)):
            return f"{rule.before} needs {first} before it all, and {bar.name} forbids it after that: it never runs"
    for one, other in combinations(sorted(needed), 2):
        if _bars(one, other, bars) and _bars(other, one, bars):
            return f"{rule.before} needs both {one} and {other}, and each is forbidden after the other: it never runs"
    return None


def _first(bar: SequenceRule) -> str | None:
    """What must not come before `_then`, in a rule that bars calls for good."""
    return bar.after if bar.after is not None else bar.taint if bar.match == "any" else None


def _then(bar: SequenceRule) -> str | None:
    return bar.never if bar.never is not None else bar.never_into


def _bars(first: str, then: str, bars: Iterable[SequenceRule]) -> bool:
    return any(_covers(_first(bar), first) and _covers(_then(bar), then) for bar in bars)


def _needed(tool: str, sequences: Iterable[SequenceRule]) -> frozenset[str]:
    """The exact names without which `tool` can't be called, and those they need in turn."""
    rules = [rule for rule in sequences if rule.require is not None]
    found: set[str] = set()
    waiting = [tool]
    while waiting:
        name = waiting.pop()
        wanted = {rule.require for rule in rules if rule.require and _covers(rule.before, name)} - found
        wanted = {one for one in wanted if not is_glob(one)}
        found |= wanted
        waiting.extend(wanted)
    return frozenset(found)


def _reachable(policy: Policy) -> frozenset[str]:
    """The tools named in the policy that some order of calls reaches; a glob stands for one tool that matches it."""
    sequences = policy.tools.sequences
    names = {name for rule in sequences for name in _names(rule)}
    names |= {rule.tool for rule in policy.tools.rules}
    possible = {name for name in names if not _denied(name, policy) and not _limited_to_none(name, sequences)}
    reached: set[str] = set()
    while new := {name for name in possible - reached if _has_what_it_needs(name, reached, sequences)}:
        reached |= new
    return frozenset(reached)


def _names(rule: SequenceRule) -> Iterator[str]:
    for name in (rule.after, rule.never, rule.before, rule.require, rule.tool, rule.taint, rule.never_into):
        if name is not None:
            yield name


def _has_what_it_needs(name: str, reached: Iterable[str], sequences: Iterable[SequenceRule]) -> bool:
    needs = [rule.require for rule in sequences if rule.require is not None and _covers(rule.before, name)]
    return all(any(one == need or _meets(one, need) for one in reached) for need in needs)


def _meets(one: str, need: str) -> bool:
    return overlap(one, need) if is_glob(one) else fnmatchcase(one, need)


def _limited_to_none(name: str, sequences: Iterable[SequenceRule]) -> bool:
    return any(rule.at_most == 0 and _covers(rule.tool, name) for rule in sequences)


def _limit_below(rule: SequenceRule, sequences: Iterable[SequenceRule]) -> SequenceRule | None:
    """A rule by whose limit that of `rule` is never reached."""
    limits = (other for other in sequences if other is not rule and other.at_most is not None)
    return next((one for one in limits if _covers(one.tool, rule.tool) and _less(one, rule)), None)


def _less(one: SequenceRule, other: SequenceRule) -> bool:
    return one.at_most is not None and other.at_most is not None and one.at_most < other.at_most


def _denied(tool: str, policy: Policy) -> bool:
    """True when every call of the exact name `tool` is denied."""
    for rule in policy.tools.rules:
        if fnmatchcase(tool, rule.tool):
            return rule.action == "deny" and (not rule.conditional or rule.otherwise == "deny")
    return policy.tools.default == "deny"


def _circle(start: SequenceRule, sequences: Iterable[SequenceRule]) -> list[str] | None:
    """The chain of exact names that leads from what `start` requires back to what it stands before."""
    needs: Mapping[str, str] = {rule.before: rule.require for rule in sequences if rule.before and rule.require}
    chain = [start.before or ""]
    while (wanted := needs.get(chain[-1])) is not None:
        chain.append(wanted)
        if wanted == start.before:
            return chain if len(chain) > 2 else None
        if wanted in chain[:-1]:
            return None
    return None


def _one_covered(pattern: str | None, names: Iterable[str]) -> str | None:
    return next((name for name in sorted(names) if _covers(pattern, name)), None)


def _covers(pattern: str | None, name: str | None) -> bool:
    """True when every tool that `name` stands for matches `pattern`, as far as can be told."""
    return pattern is not None and name is not None and (pattern == name or fnmatchcase(name, pattern))
