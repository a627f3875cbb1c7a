"""Advice on policies that load, but may not do what their author means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations

from guardmw.policy.argschema import optional_properties, patterns, unguarded_types
from guardmw.policy.backtracking import backtracks
from guardmw.policy.globs import is_glob, literal_chars, overlap
from guardmw.policy.match import DEFAULT, PolicySet
from guardmw.policy.schema import Argument, JsonSchema, Policy
from guardmw.policy.sequencelint import Remarks, Severity, contradicting_sequences
from guardmw.types import Surface

SHORT_CHARS = 40
"""A description of what is unsafe with fewer characters than this says little to a guard without precedents."""

STREAMED: tuple[Surface, ...] = ("output", "reasoning")


@dataclass(frozen=True, slots=True)
class Advice:
    """One remark on `policy` (an id), about `key` (dotted; lists by the entry's name where it has one)."""

    policy: str
    key: str
    message: str
    severity: Severity = "warning"


def lint(policy_set: PolicySet) -> list[Advice]:
    """Advice on every policy of the set, in the set's order. An empty list means nothing to say."""
    policies = policy_set.policies
    found = [
        Advice(policy.id, key, message, severity)
        for policy in policies.values()
        for rule in _RULES
        for key, message, severity in rule(policy)
    ]
    return found + [advice for policy in policies.values() for advice in _unreached(policy, policies.values())]


def _judges_nothing(policy: Policy) -> Remarks:
    detectors = policy.detectors
    judged = any(category.surfaces for category in policy.categories)
    if not (judged or detectors.pii or detectors.secrets or detectors.patterns):
        yield "categories", "no categories and no detectors: every text passes", "warning"


def _vague_categories(policy: Policy) -> Remarks:
    for category in policy.categories:
        key = f"categories.{category.id}"
        if not category.precedents and len(category.unsafe_when) < SHORT_CHARS:
            yield key, "a short `unsafe_when` and no precedents: say more, or add cases of both labels", "warning"
        labels = {precedent.label for precedent in category.precedents}
        if len(labels) == 1:
            yield f"{key}.precedents", f"all precedents are {labels.pop()}: add some of the other label", "warning"
        if not category.surfaces:
            yield f"{key}.surfaces", "no surfaces: the category is never judged", "warning"


def _asking_in_a_stream(policy: Policy) -> Remarks:
    for category in policy.categories:
        streamed = [surface for surface in STREAMED if surface in category.surfaces]
        if streamed and (category.action == "ask" or category.ask_above is not None):
            where = "action" if category.action == "ask" else "ask_above"
            message = f"nobody can be asked in the middle of a stream: on {' and '.join(streamed)} the text is withheld"
            yield f"categories.{category.id}.{where}", message, "warning"


def _toothless_categories(policy: Policy) -> Remarks:
    for category in policy.categories:
        _, act_above = policy.thresholds(category)
        if category.surfaces and act_above >= 0.99:
            message = f"acts only above {act_above:.3f} at strictness {policy.strictness:g}: it will hardly ever act"
            yield f"categories.{category.id}.block_above", message, "warning"
        if category.surfaces and act_above <= 0.01:
            message = f"acts above {act_above:.3f} already at strictness {policy.strictness:g}: nearly every text"
            yield f"categories.{category.id}.block_above", message, "warning"


def _open_when_the_guard_fails(policy: Policy) -> Remarks:
    for surface in (*STREAMED, "tool_call"):
        if getattr(policy.on_guard_error, surface) == "allow":
            message = f"when the guard fails, {surface} passes unchecked"
            yield f"on_guard_error.{surface}", message, "warning"


def _leaking_modes(policy: Policy) -> Remarks:
    if policy.streaming.mode == "pass":
        yield "streaming.mode", "`pass` shows text before its verdict: a violation is cut off, not prevented", "warning"
    if policy.mode == "shadow":
        yield "mode", "`shadow` records decisions and enforces none", "warning"


def _shadowed_rules(policy: Policy) -> Remarks:
    rules = policy.tools.rules
    for (before, first), (place, rule) in combinations(enumerate(rules), 2):
        if first.tool == rule.tool or fnmatchcase(rule.tool, first.tool):
            message = f"never reached: rule {before} ({first.tool}) matches the same names first"
            yield f"tools.rules.{place}", message, "error"


def _idle_rules(policy: Policy) -> Remarks:
    for place, rule in enumerate(policy.tools.rules):
        if rule.conditional and rule.action in (rule.otherwise, "deny"):
            message = f"a call with good arguments is met with `{rule.action}`, as hard as one with bad ones"
            yield f"tools.rules.{place}.action", message, "warning"


def _loose_arguments(policy: Policy) -> Remarks:
    for place, rule in enumerate(policy.tools.rules):
        for name, argument in rule.args.items():
            key = f"tools.rules.{place}.args.{name}"
            if argument == Argument():
                yield key, "no condition: any value passes, if only it is given", "warning"
            elif argument.pattern and not _anchored(argument.pattern):
                message = "the pattern may match anywhere in the argument: anchor it with ^ or $"
                yield f"{key}.pattern", message, "warning"
            if None not in (argument.minimum, argument.maximum) and argument.minimum > argument.maximum:  # type: ignore[operator]
                yield f"{key}.minimum", "above `maximum`: no value passes", "error"


def _loose_schemas(policy: Policy) -> Remarks:
    for key, schema in _schemas(policy):
        if not schema:
            yield key, "an empty schema: any value fits", "warning"
        for path, keyword, kind in unguarded_types(schema):
            message = f"binds values of the type {kind} only, every other value passes: add `type: {kind}`"
            yield ".".join((key, *path, keyword)), message, "warning"
        for path, pattern in patterns(schema):
            if not _anchored(pattern):
                message = "the pattern may match anywhere in the argument: anchor it with ^ or $"
                yield ".".join((key, *path)), message, "warning"
    for place, rule in enumerate(policy.tools.rules):
        for name in optional_properties(rule.fits or {}):
            message = f"a call without {name!r} passes: add `required` if it must be given"
            yield f"tools.rules.{place}.schema.properties.{name}", message, "warning"


def _schemas(policy: Policy) -> Iterator[tuple[str, JsonSchema]]:
    """The JSON Schemas of the policy's tool rules, and where they stand."""
    for place, rule in enumerate(policy.tools.rules):
        if rule.fits is not None:
            yield f"tools.rules.{place}.schema", {"type": "object", **rule.fits} if rule.fits else {}
        for name, one in rule.args.items():
            if one.fits is not None:
                yield f"tools.rules.{place}.args.{name}.schema", one.fits


def _anchored(pattern: str) -> bool:
    return pattern.startswith(("^", r"\A")) or pattern.endswith(("$", r"\Z"))


def _slow_patterns(policy: Policy) -> Remarks:
    written = {f"detectors.patterns.{one.id}": one.pattern for one in policy.detectors.patterns}
    for place, rule in enumerate(policy.tools.rules):
        written |= {f"tools.rules.{place}.args.{name}": one.pattern for name, one in rule.args.items() if one.pattern}
    for key, pattern in written.items():
        if backtracks(pattern):
            message = "a repetition within a repetition: a hostile text can make it take forever. Unfold one of them"
            yield f"{key}.pattern", message, "error"


def _unreached(policy: Policy, policies: Iterable[Policy]) -> Iterator[Advice]:
    others = [other for other in policies if other is not policy]
    if not others or policy.id == DEFAULT:
        return
    if not policy.agents and not any(policy.id in other.extends for other in others):
        message = "no agent leads to this policy: name some, or leave it out of the set (`extends` finds it anyway)"
        yield Advice(policy.id, "agents", message)
    for place, pattern in enumerate(policy.agents):
        for other in others:
            for rival in other.agents:
                if is_glob(rival) and literal_chars(rival) > literal_chars(pattern) and overlap(pattern, rival):
                    message = f"agents that match {rival!r} too get the policy {other.id!r}, which is more specific"
                    yield Advice(policy.id, f"agents.{place}", message)


_RULES: tuple[Callable[[Policy], Remarks], ...] = (
    _judges_nothing,
    _vague_categories,
    _asking_in_a_stream,
    _toothless_categories,
    _open_when_the_guard_fails,
    _leaking_modes,
    _shadowed_rules,
    _idle_rules,
    _loose_arguments,
    _loose_schemas,
    contradicting_sequences,
    _slow_patterns,
)
