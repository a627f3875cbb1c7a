"""Tool calls are judged one by one, whatever they are spelled in, before anyone sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk

from guardmw.policy.schema import Argument, SequenceRule, ToolRule, Tools
from guardmw.testing import FakeGuard, ScriptedChatModel, collect
from guardmw_langgraph import guard_model
from langgraph_world import FORBIDDEN, MAIL, REPLACEMENT, policy


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}


async def answers(turn: Any, given: Any = "Hello", **changes: Any) -> list[AIMessage]:
    """The answer as streamed and as given at once."""
    guarded = guard_model(ScriptedChatModel([turn] * 2), policy(**changes), guard=FakeGuard(FORBIDDEN))
    chunks = await collect(guarded.astream(given))
    return [sum(chunks[1:], chunks[0]), await guarded.ainvoke(given)]


def made(answer: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(one["name"], one["args"]) for one in answer.tool_calls]


async def test_a_withheld_call_is_dropped_and_the_others_stay() -> None:
    turn = ["One moment.", call("find", q="shoes"), call("find", q=FORBIDDEN), call("look", at="hats")]
    for answer in await answers(turn):
        assert made(answer) == [("find", {"q": "shoes"}), ("look", {"at": "hats"})]
        assert answer.text == f"One moment.\n\n{REPLACEMENT}"
        assert answer.response_metadata["finish_reason"] == "content_filter"
        assert FORBIDDEN not in repr(answer)


def _anthropic(*texts: str) -> list[AIMessageChunk]:
    chunks = []
    for index, text in enumerate(texts):
        args, ident = json.dumps({"q": text}), f"toolu_{index}"
        block = {"type": "tool_use", "id": ident, "name": "find", "input": {}, "index": index}
        begin = tool_call_chunk(name="find", args="", id=ident, index=index)
        delta = {"type": "input_json_delta", "partial_json": args, "index": index}
        chunks += [
            AIMessageChunk(content=[block], tool_call_chunks=[begin]),
            AIMessageChunk(content=[delta], tool_call_chunks=[tool_call_chunk(args=args, index=index)]),
        ]
    return chunks


def _openai(*texts: str) -> list[AIMessageChunk]:
    chunks = []
    for index, text in enumerate(texts):
        args, ident = json.dumps({"q": text}), f"call_{index}"
        spelled = {"index": index, "id": ident, "function": {"name": "find", "arguments": args}}
        begin = tool_call_chunk(name="find", args=args, id=ident, index=index)
        chunks.append(AIMessageChunk(content="", tool_call_chunks=[begin], additional_kwargs={"tool_calls": [spelled]}))
    return chunks


@pytest.mark.parametrize("spelled", [_anthropic, _openai])
async def test_every_spelling_of_a_withheld_call_goes(spelled: Any) -> None:
    for answer in await answers(spelled("shoes", FORBIDDEN)):
        assert made(answer) == [("find", {"q": "shoes"})]
        assert FORBIDDEN not in repr(answer)
        assert "_1" not in repr([answer.content, answer.additional_kwargs])


@pytest.mark.parametrize("spelled", [_anthropic, _openai])
async def test_a_redacted_call_is_redacted_in_every_spelling(spelled: Any) -> None:
    for answer in await answers(spelled(f"to {MAIL}", "hats")):
        assert made(answer) == [("find", {"q": "to [EMAIL]"}), ("find", {"q": "hats"})]
        assert MAIL not in repr(answer)
        assert answer.response_metadata["guardmw"]["action"] == "redact"


async def test_a_withheld_call_takes_no_unjudged_text_along() -> None:
    citation = {"type": "text", "text": "", "citations": [{"cited_text": f"says {FORBIDDEN}"}], "index": 0}
    for answer in await answers([AIMessageChunk(content=[citation]), *_anthropic(FORBIDDEN)]):
        assert FORBIDDEN not in repr(answer)


async def test_the_oldest_spelling_is_a_call_too() -> None:
    function_call = {"name": "find", "arguments": json.dumps({"q": FORBIDDEN})}
    old = AIMessageChunk(content="", additional_kwargs={"function_call": function_call})
    for answer in await answers([old]):
        assert answer.additional_kwargs == {}
        assert answer.text == REPLACEMENT


@pytest.mark.parametrize("args", [f'{{"q": "{FORBIDDEN}', f"{FORBIDDEN} is no JSON", f'["{FORBIDDEN}"]'])
async def test_arguments_that_are_no_json_are_judged(args: str) -> None:
    for answer in await answers(
        [AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name="find", args=args, id="1", index=0)])]
    ):
        assert FORBIDDEN not in repr(answer)
        assert (answer.tool_calls, answer.invalid_tool_calls) == ([], [])


async def test_rules_decide_without_a_guard() -> None:
    tools = Tools(
        rules=(
            ToolRule(tool="delete_*", action="deny"),
            ToolRule(tool="send", args={"to": Argument(pattern=r"@shop\.example$")}, otherwise="ask"),
            ToolRule(tool="read", action="allow"),
        )
    )
    turn = [
        call("delete_all"),
        call("send", to="me@evil.example"),
        call("send", to="a@shop.example"),
        call("read", q=FORBIDDEN),
    ]
    for answer in await answers(turn, tools=tools, detectors={}):
        assert made(answer) == [("send", {"to": "a@shop.example"}), ("read", {"q": FORBIDDEN})]


async def test_the_order_of_calls_counts_over_the_whole_conversation() -> None:
    tools = Tools(sequences=(SequenceRule(name="no-exfiltration", after="read_customer", never="http_post"),))
    before = [
        HumanMessage("Hello"),
        AIMessage("", tool_calls=[{**call("read_customer"), "id": "1"}]),
        ToolMessage("Jane", tool_call_id="1"),
    ]
    for answer in await answers([call("http_post", data="x")], before, tools=tools):
        assert made(answer) == []
    for answer in await answers([call("http_post", data="x"), call("read_customer")], tools=tools):
        assert made(answer) == [("http_post", {"data": "x"}), ("read_customer", {})]
    for answer in await answers([call("read_customer"), call("http_post", data="x")], tools=tools):
        assert made(answer) == [("read_customer", {})]


async def test_a_withheld_call_is_no_history() -> None:
    tools = Tools(sequences=(SequenceRule(name="once", tool="find", at_most=1),))
    for answer in await answers([call("find", q=FORBIDDEN), call("find", q="hats")], tools=tools):
        assert made(answer) == [("find", {"q": "hats"})]


async def test_the_guard_sees_name_arguments_and_conversation() -> None:
    guard = FakeGuard()
    model = guard_model(ScriptedChatModel([[call("find", q="größe")]]), policy(), guard=guard, agent="shop")
    await model.ainvoke([HumanMessage("Which size?")])
    (check,) = [check for check in guard.checks if check.surface == "tool_call"]
    assert check.content == 'find({"q": "größe"})'
    assert (check.agent, check.calls[-1].name, check.conversation[0].content) == ("shop", "find", "Which size?")
