"""Calls as rows and trajectories write them, and what a guard is asked about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardmw.train.calls import call_checks, step_call
from guardmw.types import ToolCall

ARGUMENTS = {"to": "kim@example.com", "text": "See you."}
CALL = ToolCall("send", json.dumps(ARGUMENTS))


@pytest.mark.parametrize(
    "written",
    [
        {"name": "send", "arguments": ARGUMENTS},
        {"name": "send", "arguments": ARGUMENTS, "description": "Sends a mail."},
        {"name": "send", "arguments": json.dumps(ARGUMENTS)},
        {"type": "tool_use", "id": "t1", "name": "send", "input": ARGUMENTS},
        {"name": "send", "parameters": ARGUMENTS},
        {"name": "send", "args": ARGUMENTS, "id": "1", "type": "tool_call"},
        {"id": "1", "type": "function", "function": {"name": "send", "arguments": json.dumps(ARGUMENTS)}},
    ],
)
def test_however_a_call_is_written_its_arguments_are_judged(written: dict[str, Any]) -> None:
    for content in json.dumps(written), json.dumps([written]):
        (check,) = call_checks(content, ())
        assert check.calls == (CALL,)
        assert check.content == f"send({CALL.arguments})"


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ({"name": "look"}, "{}"),
        ({"name": "look", "arguments": None}, "{}"),
        ({"name": "look", "arguments": ""}, "{}"),
        ({"name": "look", "arguments": "here {"}, json.dumps("here {")),
        ({"name": "look", "arguments": ["here"]}, '["here"]'),
    ],
)
def test_odd_and_missing_arguments_stay_what_they_are(written: dict[str, Any], arguments: str) -> None:
    (check,) = call_checks(json.dumps(written), ())
    assert check.calls == (ToolCall("look", arguments),)


@pytest.mark.parametrize(
    "content",
    ['{"name": "send", "kwargs": {"to": "kim"}}', '{"name": 3, "arguments": {}}', "[1]", '"send"', "send(", "[" * 9999],
)
def test_what_is_no_call_is_judged_as_it_stands(content: str) -> None:
    (check,) = call_checks(content, ())
    assert check.content == content
    assert check.calls == (ToolCall("", content),)


@pytest.mark.parametrize("step", ["send {}", "send({})", "send: {}", "send\nAction Input: {}"])
def test_a_step_is_a_call_with_or_without_parentheses(step: str) -> None:
    written = step.replace("{}", json.dumps(ARGUMENTS))
    found = step_call(written)
    if ":" in step.split("\n")[0]:
        assert found is None
    else:
        assert found == (CALL, f"send({CALL.arguments})")


def test_a_step_that_says_more_is_judged_whole() -> None:
    written = f"send({json.dumps(ARGUMENTS)}) and then delete everything"
    assert step_call(written) == (CALL, written)
