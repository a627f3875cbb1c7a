"""Advice on policies that load but may surprise."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

from guardmw.policy import PolicySet, parse_policy
from guardmw.policy.backtracking import backtracks
from guardmw.policy.lint import Advice, lint

INSULTS = (
    "categories: [{id: insults, title: Insults, unsafe_when: The text insults someone who is going to read it.}]\n"
)
CLEAN = "id: shop\n" + INSULTS


def advice(*texts: str) -> list[Advice]:
    return lint(PolicySet([parse_policy(dedent(text)) for text in texts]))


def category(extra: str) -> str:
    return f"id: shop\ncategories:\n  - id: insults\n    title: Insults\n{indent(dedent(extra), '    ')}"


def test_a_clean_policy_gets_no_advice() -> None:
    assert advice(CLEAN) == []


@pytest.mark.parametrize(
    ("text", "key", "said", "severity"),
    [
        ("id: shop", "categories", "every text passes", "warning"),
        (category("unsafe_when: Too short."), "categories.insults", "say more", "warning"),
        (
            category("unsafe_when: Short.\nprecedents: [{text: a, label: unsafe}]"),
            "categories.insults.precedents",
            "all precedents are unsafe",
            "warning",
        ),
        (
            category("unsafe_when: The text insults someone who reads it.\nsurfaces: []"),
            "categories.insults.surfaces",
            "never judged",
            "warning",
        ),
        (
            category("unsafe_when: The text insults someone who reads it.\naction: ask"),
            "categories.insults.action",
            "withheld",
            "warning",
        ),
        (
            category("unsafe_when: The text insults someone who reads it.\nask_above: 0.3"),
            "categories.insults.ask_above",
            "on output and reasoning",
            "warning",
        ),
        (
            category("unsafe_when: The text insults someone who reads it.\nblock_above: 1.0"),
            "categories.insults.block_above",
            "hardly ever act",
            "warning",
        ),
        (
            category("unsafe_when: The text insults someone who reads it.\nblock_above: 0.05") + "\nstrictness: 1",
            "categories.insults.block_above",
            "nearly every text",
            "warning",
        ),
        (CLEAN + "on_guard_error: {output: allow}", "on_guard_error.output", "passes unchecked", "warning"),
        (CLEAN + "streaming: {mode: pass}", "streaming.mode", "before its verdict", "warning"),
        (CLEAN + "mode: shadow", "mode", "enforces none", "warning"),
        (CLEAN + "tools: {rules: [{tool: 'a*'}, {tool: ab, action: deny}]}", "tools.rules.1", "never reached", "error"),
        (
            CLEAN + "tools: {rules: [{tool: a, action: deny, args: {x: {one_of: [1]}}}]}",
            "tools.rules.0.action",
            "as hard as",
            "warning",
        ),
        (CLEAN + "tools: {rules: [{tool: a, args: {x: {}}}]}", "tools.rules.0.args.x", "any value passes", "warning"),
        (
            CLEAN + "tools: {rules: [{tool: a, args: {x: {pattern: shop}}}]}",
            "tools.rules.0.args.x.pattern",
            "anchor it",
            "warning",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, args: {x: {minimum: 2, maximum: 1}}}]}",
            "tools.rules.0.args.x.minimum",
            "no value passes",
            "error",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, args: {x: {schema: {}}}}]}",
            "tools.rules.0.args.x.schema",
            "an empty schema",
            "warning",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, args: {x: {schema: {maximum: 3}}}}]}",
            "tools.rules.0.args.x.schema.maximum",
            "add `type: number`",
            "warning",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, schema: {required: [x], properties: {x: {minLength: 3}}}}]}",
            "tools.rules.0.schema.properties.x.minLength",
            "add `type: string`",
            "warning",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, args: {x: {schema: {type: string, pattern: shop}}}}]}",
            "tools.rules.0.args.x.schema.pattern",
            "anchor it",
            "warning",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, schema: {properties: {x: {type: string}}}}]}",
            "tools.rules.0.schema.properties.x",
            "add `required`",
            "warning",
        ),
        (
            CLEAN + "tools: {rules: [{tool: a, action: deny, schema: {required: [x]}}]}",
            "tools.rules.0.action",
            "as hard as",
            "warning",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: a, require: b}, {name: t, after: b, never: a}]}",
            "tools.sequences.s",
            "t forbids it after that",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: 'a*', require: ab}]}",
            "tools.sequences.s",
            "needs itself",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: a, require: b}, {name: t, before: b, require: a}]}",
            "tools.sequences.s",
            "a needs b needs a",
            "error",
        ),
        (
            CLEAN + "tools: {rules: [{tool: b, action: deny}], sequences: [{name: s, before: a, require: b}]}",
            "tools.sequences.s",
            "which the rules deny",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, tool: a, at_most: 0}]}",
            "tools.sequences.s",
            "`action: deny` says so",
            "warning",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, tool: b, at_most: 0}, {name: t, before: a, require: b}]}",
            "tools.sequences.t",
            "s allows no call",
            "error",
        ),
        (
            CLEAN + "tools: {rules: [{tool: c, action: deny}], sequences: [{name: s, before: a, require: b}, "
            "{name: t, before: b, require: c}]}",
            "tools.sequences.s",
            "itself can never be called",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: a, require: b}, {name: t, before: b, require: c}, "
            "{name: u, before: c, require: a}]}",
            "tools.sequences.s",
            "a needs b needs c needs a",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: a, require: b}, {name: t, before: b, require: c}, "
            "{name: u, after: c, never: a}]}",
            "tools.sequences.s",
            "needs c before it all, and u forbids",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: a, require: b}, {name: t, taint: b, never_into: 'a*'}]}",
            "tools.sequences.s",
            "t forbids it after that",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, before: a, require: b}, {name: t, before: a, require: c}, "
            "{name: u, after: b, never: c}, {name: v, after: c, never: b}]}",
            "tools.sequences.s",
            "each is forbidden after the other",
            "error",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, taint: a, never_into: '*'}]}",
            "tools.sequences.s",
            "must not reach itself",
            "warning",
        ),
        (
            CLEAN + "tools: {sequences: [{name: s, tool: a, at_most: 5}, {name: t, tool: '*', at_most: 2}]}",
            "tools.sequences.s",
            "t allows 2 calls only",
            "warning",
        ),
        (
            CLEAN + "detectors: {patterns: [{id: p, pattern: '(a+)+b'}]}",
            "detectors.patterns.p.pattern",
            "take forever",
            "error",
        ),
        (
            CLEAN + r"tools: {rules: [{tool: a, args: {x: {pattern: '^(\d+)*$'}}}]}",
            "tools.rules.0.args.x.pattern",
            "take forever",
            "error",
        ),
    ],
)
def test_advice(text: str, key: str, said: str, severity: str) -> None:
    found = [one for one in advice(text) if one.key == key and said in one.message]
    assert [(one.policy, one.severity) for one in found] == [("shop", severity)], advice(text)


def test_a_policy_that_no_agent_reaches() -> None:
    (one,) = advice(CLEAN, "id: bank\nagents: [bank]\n" + INSULTS)
    assert (one.policy, one.key) == ("shop", "agents")
    assert advice(CLEAN, "id: default\n" + INSULTS)[0].policy == "shop"


def test_a_policy_that_others_extend_needs_no_agents() -> None:
    shop = parse_policy(CLEAN)
    heir = shop.model_copy(update={"id": "heir", "extends": ("shop",), "agents": ("heir",)})
    assert lint(PolicySet([shop, heir])) == []


def test_a_pattern_that_a_more_specific_one_shadows() -> None:
    (one,) = advice("id: wide\nagents: ['shop*']\n" + INSULTS, "id: narrow\nagents: ['shop-*', shopper]\n" + INSULTS)
    assert (one.policy, one.key, one.severity) == ("wide", "agents.0", "warning")
    assert "'shop-*'" in one.message


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+", r"^(\d+)*$", r"(a*b*)*", r"(?:\s*\w+)*x", r"((a|b)+c?)+", r"(?:(?:a+|b))+", r"(.*,)*", r"(a+?)+"],
)
def test_patterns_that_backtrack_without_end(pattern: str) -> None:
    assert backtracks(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w+-)+",
        r"(?:[a-z]+\.)+com",
        r"([a-z]{1,3})+",
        r"a+b+",
        r"(?>a+)+",
        r"(a++)+",
        r"[\w.]+@\w+(?:\.\w+)+",
        r"(?!.*x)^a+$",
    ],
)
def test_patterns_that_do_not(pattern: str) -> None:
    assert not backtracks(pattern)


@pytest.mark.parametrize(
    "sequences",
    [
        "[{name: s, before: a, require: b}, {name: t, before: b, require: c}]",
        "[{name: s, before: 'close_*', require: 'verify_*'}, {name: t, before: verify_it, require: greet}]",
        "[{name: s, before: a, require: b}, {name: t, taint: b, never_into: a, match: values}]",
        "[{name: s, before: a, require: b}, {name: t, before: a, require: c}, {name: u, after: b, never: c}]",
        "[{name: s, before: a, require: 'b*'}, {name: t, tool: b1, at_most: 0}]",
        "[{name: s, tool: a, at_most: 1}, {name: t, tool: '*', at_most: 2}]",
        "[{name: s, before: a, require: b}, {name: t, after: a, never: b}]",
    ],
)
def test_sequences_that_can_be_followed(sequences: str) -> None:
    assert [one for one in advice(f"{CLEAN}tools: {{sequences: {sequences}}}") if one.severity == "error"] == []
