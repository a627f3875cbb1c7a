"""JSON Schemas of policies: what they let pass, what is wrong with them, and that they fetch and quote nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardmw.errors import PolicyError
from guardmw.policy import parse_policy
from guardmw.policy.argschema import DRAFT, MAX_SHOWN_CHARS, ArgumentSchema, tool_mismatch
from guardmw.policy.automaton import automaton_for
from guardmw.policy.jsonschema import policy_json_schema
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Argument, Policy
from guardmw.types import ToolCall

POLICY = """
id: desk
tools:
  rules:
    - {tool: issue_refund, args: {amount: {schema: {type: number, maximum: 100}}}, action: allow, otherwise: ask}
    - tool: send_email
      args: {to: {pattern: '@shop$', schema: {type: array, maxItems: 2}}}
      schema:
        type: object
        required: [to, text]
        additionalProperties: false
        properties:
          to: {type: array, items: {type: string, format: email}}
          text: {$ref: '#/$defs/short'}
        $defs: {short: {type: string, maxLength: 5}}
"""


def decided(name: str, arguments: Any) -> RuleOutcome:
    automaton = automaton_for(parse_policy(POLICY))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return automaton.decide(automaton.start, ToolCall(name, text))


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        ("issue_refund", {"amount": 100}, "allow"),
        ("issue_refund", {"amount": 100.5}, "ask"),
        ("issue_refund", {"amount": "3"}, "ask"),
        ("issue_refund", {"amount": True}, "ask"),
        ("issue_refund", {"amount": [3]}, "ask"),
        ("issue_refund", {"amount": 10**400}, "ask"),
        ("issue_refund", {}, "ask"),
        ("issue_refund", '{"amount": NaN}', "ask"),
        ("issue_refund", '{"amount": -Infinity}', "ask"),
        ("issue_refund", '{"amount": -1e999}', "ask"),
        ("send_email", {"to": ["a@shop"], "text": "Hi"}, "check"),
        ("send_email", {"to": ["a@shop", "b@shop"], "text": "Hi"}, "check"),
        ("send_email", {"to": ["a@shop", "b@shop", "c@shop"], "text": "Hi"}, "deny"),
        ("send_email", {"to": ["a@evil"], "text": "Hi"}, "deny"),
        ("send_email", {"to": ["@shop"], "text": "Hi"}, "deny"),
        ("send_email", {"to": [], "text": "Hi"}, "deny"),
        ("send_email", {"to": ["a@shop"], "text": "Hello all"}, "deny"),
        ("send_email", {"to": ["a@shop"]}, "deny"),
        ("send_email", {"to": ["a@shop"], "text": "Hi", "bcc": "a@evil"}, "deny"),
        ("send_email", {"to": ["a@shop"], "text": "\ud800"}, "deny"),
        ("send_email", [], "deny"),
    ],
)
def test_every_condition_of_a_rule_must_hold(name: str, arguments: Any, action: str) -> None:
    assert decided(name, arguments).action == action


def test_an_empty_list_can_fit_a_schema() -> None:
    rule = "{tool: a, args: {tags: {schema: {type: array}}}, action: allow}"
    automaton = automaton_for(parse_policy(f"id: p\ntools: {{rules: [{rule}]}}"))
    assert automaton.decide(automaton.start, ToolCall("a", '{"tags": []}')).action == "allow"


def test_a_refusal_says_what_would_fit_and_quotes_nothing_of_the_call() -> None:
    refund = decided("issue_refund", {"amount": 250})
    assert refund.why == "the argument 'amount' does not fit its schema (maximum)"
    assert refund.instead == """'amount' must fit the JSON Schema {"type": "number", "maximum": 100}."""
    for wrong in ({"to": ["XYZZY@shop"], "text": "XYZZY!"}, {"to": ["a@shop"], "text": "", "XYZZY": 1}):
        mail = decided("send_email", wrong)
        assert "XYZZY" not in mail.why + mail.instead
    assert decided("send_email", {"to": ["a@shop"], "text": "Hello all"}).why.endswith("($defs.short.maxLength)")


def test_of_a_long_schema_the_part_that_is_broken_is_shown() -> None:
    names = {f"name{number}": {"type": "string", "maxLength": number} for number in range(100)}
    schema = ArgumentSchema({"type": "object", "properties": names})
    at = schema.broken_at({"name3": "four"})
    assert at == ("properties", "name3", "maxLength")
    assert schema.shown(at) == '{"type": "string", "maxLength": 3}'
    assert len(schema.shown(())) == MAX_SHOWN_CHARS + 1


SECRET = "XYZZY"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(SECRET),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.just(SECRET), inner),
)


@given(name=st.sampled_from(["issue_refund", "send_email"]), value=st.dictionaries(st.text() | st.just("to"), VALUES))
def test_whatever_the_arguments_are_nothing_is_raised_and_nothing_quoted(name: str, value: dict[str, Any]) -> None:
    outcome = decided(name, value)
    assert outcome.action in ("allow", "check", "ask", "deny")
    assert SECRET not in outcome.why + outcome.instead


@given(text=st.text())
def test_whatever_the_model_writes_nothing_is_raised(text: str) -> None:
    assert decided("send_email", text).action == "deny"


@pytest.mark.parametrize(
    ("schema", "key", "complaint"),
    [
        ("{type: nmber}", ".type", "no such type. Write one of string"),
        ("{maximun: 3}", ".maximun", "no keyword 'maximun'. Did you mean 'maximum'?"),
        ("{sdfg: 3}", ".sdfg", "no keyword 'sdfg'. Remove it"),
        ("{properties: {a: {items: {patern: x}}}}", ".properties.a.items.patern", "Did you mean 'pattern'?"),
        ("{anyOf: [{type: string}, {minimun: 1}]}", ".anyOf.1.minimun", "Did you mean 'minimum'?"),
        ("{pattern: '(?=x)'}", ".pattern", "Lookaround"),
        ("{pattern: '('}", ".pattern", "not a JSON Schema"),
        ("{format: emial}", ".format", "Unknown format"),
        ("{$ref: 'http://schemas.example/y.json'}", "", "references are followed within the schema only"),
        ("{$ref: 'file:///etc/hosts'}", "", "references are followed within the schema only"),
        ("{$ref: '#/$defs/a'}", "", "does not exist"),
        ("{$schema: 'http://json-schema.org/draft-07/schema#'}", ".$schema", "was expected"),
        ("{maximum: .inf}", "", "Write plain JSON values"),
        ("{required: x}", ".required", "not a JSON Schema"),
        ("3", "", "can't stand here"),
    ],
)
def test_what_is_no_schema_is_an_error_with_its_place(schema: str, key: str, complaint: str) -> None:
    text = f"id: p\ntools:\n  rules:\n    - tool: a\n      args:\n        x:\n          schema: {schema}\n"
    with pytest.raises(PolicyError, match=r"can't|JSON Schema") as raised:
        parse_policy(text, name="p.yaml")
    error = raised.value
    assert (error.file, error.line, error.key) == ("p.yaml", 7, f"tools.rules.0.args.x.schema{key}")
    assert complaint in str(error)


def test_the_line_is_that_of_the_key_that_is_wrong() -> None:
    text = "id: p\ntools:\n  rules:\n    - tool: a\n      schema:\n        type: object\n        requird: [x]\n"
    with pytest.raises(PolicyError) as raised:
        parse_policy(text)
    assert (raised.value.line, raised.value.key) == (7, "tools.rules.0.schema.requird")


def test_the_draft_may_be_named() -> None:
    assert ArgumentSchema({"$schema": DRAFT, "type": "string"}).broken_at(3) == ("type",)


def test_a_schema_is_part_of_the_policys_identity_and_survives_a_copy() -> None:
    policy = parse_policy(POLICY)
    assert Policy.model_validate(policy.model_dump(mode="json")).hash == policy.hash
    assert parse_policy(POLICY.replace("maximum: 100", "maximum: 101")).hash != policy.hash
    assert Argument.model_validate({"schema": {"type": "string"}}).fits == {"type": "string"}


def test_editors_know_where_a_schema_may_stand() -> None:
    models = policy_json_schema()["$defs"]
    assert {"schema", "args"} <= models["ToolRule"]["properties"].keys()
    assert "schema" in models["Argument"]["properties"]


TOOL = {"properties": {"amount": {"type": "integer"}, "note": {"type": "string"}}, "required": ["amount"]}


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        ({"amount": 3}, None),
        ({"amount": 3.0, "note": "x"}, None),
        ({"amount": "much"}, 'the argument \'amount\': "much" is not of type "integer"'),
        ({"note": "x"}, '"amount" is a required property'),
        ({"amount": 3, "to": "me"}, "('to' was unexpected)"),
        ({"amount": 3, "note": {1: 2}}, "no JSON"),
    ],
)
def test_arguments_that_a_tool_does_not_take(args: dict[str, Any], wrong: str | None) -> None:
    found = tool_mismatch(args, TOOL)
    assert found is None if wrong is None else wrong in (found or "")


@pytest.mark.parametrize("schema", [{"type": "nmber"}, {"$ref": "http://schemas.example/y.json"}, {"pattern": "(?=x)"}])
def test_a_tools_schema_that_cannot_be_used_is_left_to_the_tool(schema: dict[str, Any]) -> None:
    assert tool_mismatch({"x": 1}, schema) is None


def test_a_tool_may_take_any_argument() -> None:
    assert tool_mismatch({"amount": 1, "x": 1}, {**TOOL, "additionalProperties": True}) is None
