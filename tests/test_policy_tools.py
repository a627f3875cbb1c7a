"""Rules over tool calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardmw.policy import decide_call, parse_policy
from guardmw.policy.schema import Argument, SequenceRule, ToolRule, Tools
from guardmw.types import ToolCall

SHOP = parse_policy(
    r"""
    id: shop
    tools:
      default: ask
      rules:
        - {tool: send_email, args: {to: {pattern: '@shop\.example$'}}, action: allow, otherwise: ask}
        - tool: issue_refund
          args: {amount: {minimum: 0, maximum: 100}, currency: {one_of: [EUR, USD]}}
        - {tool: "delete_*", action: deny}
        - {tool: "*", action: check}
      sequences:
        - {name: no-exfiltration, after: read_customer, never: "http_*"}
        - {name: verify-first, before: issue_refund, require: verify_identity}
        - {name: few-mails, tool: send_email, at_most: 2}
    """
).tools


def decide(name: str, history: tuple[str, ...] = (), **arguments: Any) -> str:
    calls = [ToolCall(earlier) for earlier in history]
    return decide_call(SHOP, ToolCall(name, json.dumps(arguments)), calls).action


def with_rule(arguments: str, **conditions: Any) -> str:
    rule = ToolRule(tool="t", action="allow", args={"x": Argument(**conditions)}, otherwise="deny")
    return decide_call(Tools(rules=(rule,)), ToolCall("t", arguments), []).action


def test_the_first_matching_rule_decides() -> None:
    assert decide("delete_account") == "deny"
    assert decide("search") == "check"
    assert decide("Delete_account") == "check"
    assert decide_call(Tools(default="ask"), ToolCall("search"), []).rule == "default"


def test_names_alone_are_matched() -> None:
    call = ToolCall("note", '{"text": "delete_account"}')
    assert decide_call(SHOP, call, []).rule == "tool:*"


def test_arguments_decide_between_action_and_otherwise() -> None:
    assert decide("send_email", to="ann@shop.example") == "allow"
    assert decide("send_email", to="ann@evil.example") == "ask"
    assert decide("send_email") == "ask"
    good = {"amount": 20, "currency": "EUR"}
    verified = ("verify_identity",)
    assert decide("issue_refund", verified, **good) == "check"
    assert decide("issue_refund", verified, **good | {"amount": 101}) == "deny"
    assert decide("issue_refund", verified, **good | {"amount": -1}) == "deny"
    assert decide("issue_refund", verified, **good | {"currency": "BTC"}) == "deny"


def test_why_names_the_argument_and_the_rule() -> None:
    outcome = decide_call(SHOP, ToolCall("send_email", '{"to": "x"}'), [])
    assert (outcome.action, outcome.rule) == ("ask", "tool:send_email")
    assert "'to'" in outcome.why


@pytest.mark.parametrize(
    "arguments", ["{", "[]", "null", '"x"', "{'x': 1}", "1" * 5000, "[" * 100_000, '{"x": 1, "x": 2}']
)
def test_arguments_that_are_no_json_object_break_every_condition(arguments: str) -> None:
    assert with_rule(arguments) == "deny"


@pytest.mark.parametrize(
    ("value", "conditions", "action"),
    [
        ("3", {"minimum": 1}, "deny"),
        (True, {"minimum": 1}, "deny"),
        (True, {"one_of": (1,)}, "deny"),
        (1.0, {"one_of": (1,)}, "allow"),
        (None, {"pattern": "^x"}, "deny"),
        ([], {"pattern": "^x"}, "deny"),
        ([], {}, "allow"),
        (["xa", "xb"], {"pattern": "^x"}, "allow"),
        (["xa", "yb"], {"pattern": "^x"}, "deny"),
        ({"deep": ["xa", {"deeper": "y"}]}, {"pattern": "^x"}, "deny"),
        (["a", "b"], {"one_of": ("a", "b")}, "allow"),
        (["a", "c"], {"one_of": ("a", "b")}, "deny"),
        ([1, [2]], {"one_of": ((1, (2,)),)}, "allow"),
        (12, {"pattern": "^12$"}, "allow"),
        ("abc", {"pattern": "^a", "one_of": ("abc", "xyz")}, "allow"),
        ("xyz", {"pattern": "^a", "one_of": ("abc", "xyz")}, "deny"),
    ],
)
def test_conditions(value: Any, conditions: dict[str, Any], action: str) -> None:
    assert with_rule(json.dumps({"x": value}), **conditions) == action


def test_nan_is_within_no_bounds() -> None:
    assert with_rule('{"x": NaN}', minimum=0) == "deny"
    assert with_rule('{"x": NaN}', maximum=0) == "deny"


def test_no_arguments_at_all_is_an_empty_object() -> None:
    rule = ToolRule(tool="t", action="allow")
    assert decide_call(Tools(rules=(rule,)), ToolCall("t", ""), []).action == "allow"


def test_sequences_deny_whatever_the_rules_say() -> None:
    assert decide("http_post", ("read_customer", "search")) == "deny"
    assert decide("http_post", ("search",)) == "check"
    assert decide("issue_refund", (), amount=1, currency="EUR") == "deny"
    assert decide("send_email", ("send_email",), to="a@shop.example") == "allow"
    assert decide("send_email", ("send_email", "search", "send_email"), to="a@shop.example") == "deny"
    outcome = decide_call(SHOP, ToolCall("http_get"), [ToolCall("read_customer")])
    assert outcome.rule == "sequence:no-exfiltration"


names = st.sampled_from(["a", "b", "ab", "c"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
arguments_text = st.one_of(
    st.text(max_size=40), st.dictionaries(st.sampled_from(["x", "y"]), json_values).map(json.dumps)
)
conditions = st.builds(
    Argument,
    pattern=st.none() | st.sampled_from(["a", "^b$", "1"]),
    one_of=st.none() | st.lists(json_values, max_size=2).map(tuple),
    minimum=st.none() | st.integers(-3, 3),
    maximum=st.none() | st.integers(-3, 3),
)
rules = st.builds(
    ToolRule,
    tool=st.sampled_from(["a", "a*", "*", "[bc]"]),
    action=st.sampled_from(["allow", "check", "ask", "deny"]),
    args=st.dictionaries(st.sampled_from(["x", "y"]), conditions, max_size=2),
    otherwise=st.sampled_from(["ask", "deny"]),
)
sequences = st.one_of(
    st.builds(SequenceRule, name=st.just("s"), after=names, never=names),
    st.builds(SequenceRule, name=st.just("s"), before=names, require=names),
    st.builds(SequenceRule, name=st.just("s"), tool=names, at_most=st.integers(0, 3)),
)
tools = st.builds(
    Tools,
    default=st.sampled_from(["allow", "check", "ask", "deny"]),
    rules=st.lists(rules, max_size=3).map(tuple),
    sequences=st.lists(sequences, max_size=2).map(tuple),
)
calls = st.builds(ToolCall, name=names, arguments=arguments_text)


@given(tools, calls, st.lists(calls, max_size=5))
def test_any_call_gets_an_outcome_with_a_reason(rules: Tools, call: ToolCall, history: list[ToolCall]) -> None:
    outcome = decide_call(rules, call, history)
    assert outcome.action in ("allow", "check", "ask", "deny")
    assert outcome.why


@given(tools, st.lists(calls, max_size=12))
def test_a_run_that_makes_only_undenied_calls_breaks_no_sequence(rules: Tools, wanted: list[ToolCall]) -> None:
    made: list[ToolCall] = []
    for call in wanted:
        if decide_call(rules, call, made).action != "deny":
            made.append(call)
    order = [call.name for call in made]
    for rule in rules.sequences:
        if rule.after and rule.never:
            assert rule.after not in order or rule.never not in order[order.index(rule.after) + 1 :]
        elif rule.before and rule.require and rule.before in order:
            assert rule.require in order[: order.index(rule.before)]
        elif rule.tool and rule.at_most is not None:
            assert order.count(rule.tool) <= rule.at_most
