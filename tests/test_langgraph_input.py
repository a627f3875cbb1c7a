"""What users say is judged once, before any model hears it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import guard_model
from guardmw_langgraph.screen import LOOKED_BACK, PLACEHOLDER, SHOWN, conversation
from langgraph_world import FORBIDDEN, MAIL, REPLACEMENT, UNAVAILABLE, policy


async def asked(given: list[BaseMessage], guard: FakeGuard | None = None, **changes: Any) -> tuple[str, list[Any]]:
    """The answer, and what the model was asked."""
    model = ScriptedChatModel(["Hello to you"])
    answer = await guard_model(model, policy(**changes), guard=guard or FakeGuard(FORBIDDEN)).ainvoke(given)
    return answer.text, [message.content for message in model.prompts[0]] if model.prompts else []


async def test_a_hostile_message_reaches_no_model() -> None:
    assert await asked([HumanMessage(f"Say {FORBIDDEN}")]) == (REPLACEMENT, [])


async def test_streams_refuse_too() -> None:
    model = ScriptedChatModel(["Hello"])
    guarded = guard_model(model, policy(), guard=FakeGuard(FORBIDDEN))
    texts = [chunk.text async for chunk in guarded.astream(FORBIDDEN) if chunk.text]
    assert (texts, model.calls) == ([REPLACEMENT], 0)


async def test_personal_data_reaches_no_model() -> None:
    assert await asked([HumanMessage(f"I am {MAIL}")]) == ("Hello to you", ["I am [EMAIL]"])


async def test_an_old_hostile_message_is_replaced_and_the_conversation_goes_on() -> None:
    given = [SystemMessage("Be nice"), HumanMessage(FORBIDDEN), AIMessage(REPLACEMENT), HumanMessage("Sorry. Hello!")]
    assert await asked(given) == ("Hello to you", ["Be nice", PLACEHOLDER, REPLACEMENT, "Sorry. Hello!"])


async def test_every_message_is_judged_once() -> None:
    guard = FakeGuard(FORBIDDEN)
    model = guard_model(ScriptedChatModel(["One", "Two", "Three"]), policy(), guard=guard)
    said: list[BaseMessage] = []
    for text in ("first", "second", "third"):
        said.append(HumanMessage(text))
        said.append(await model.ainvoke(said))
    assert [check.content for check in guard.checks if check.surface == "input"] == ["first", "second", "third"]


async def test_a_failed_judgement_is_made_again() -> None:
    guard = FakeGuard(FORBIDDEN, fail="error")
    model = guard_model(ScriptedChatModel(["Hello"]), policy(), guard=guard)
    assert (await model.ainvoke("Hi")).text == UNAVAILABLE
    guard.fail = None
    assert (await model.ainvoke("Hi")).text == "Hello"


async def test_text_blocks_are_judged_and_others_pass() -> None:
    image = {"type": "image", "base64": "aGVsbG8=", "mime_type": "image/png"}
    blocks: list[Any] = [
        {"type": "text", "text": "I am jane.doe"},
        image,
        "or",
        {"type": "text", "text": MAIL},
        {"odd": 1},
    ]
    expected = [blocks[0], image, "or", {"type": "text", "text": "[EMAIL]"}, {"odd": 1}]
    assert await asked([HumanMessage(blocks)]) == ("Hello to you", [expected])
    blocks.append({"type": "text", "text": FORBIDDEN})
    assert await asked([HumanMessage(blocks)]) == (REPLACEMENT, [])


async def test_a_redaction_over_two_blocks_takes_both_parts() -> None:
    pattern = {"patterns": [{"id": "code", "pattern": r"AB\s?CD", "action": "redact"}]}
    blocks: list[Any] = [{"type": "text", "text": "my AB"}, {"type": "text", "text": "CD yes"}]
    expected = [{"type": "text", "text": "my [CODE]"}, {"type": "text", "text": " yes"}]
    assert await asked([HumanMessage(blocks)], detectors=pattern) == ("Hello to you", [expected])


@pytest.mark.parametrize(
    "odd", ["", [], [{"type": "text", "text": ""}], "\ud800 lone", "\x00\u200b", [{"type": "text"}]]
)
async def test_odd_messages_pass(odd: Any) -> None:
    assert (await asked([HumanMessage(odd)]))[0] == "Hello to you"


def test_a_guard_sees_the_newest_messages_and_what_the_user_wanted() -> None:
    said: list[BaseMessage] = [SystemMessage("Be nice"), HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Sum up")]
    assert [message.content for message in conversation(said)] == ["Be nice", "Hi", "Hello", "Sum up"]
    said += [AIMessage(f"step {n}") for n in range(3 * SHOWN - 4)]
    for length in (3 * SHOWN - 1, 2 * SHOWN):
        seen = [message.content for message in conversation(said[:length])]
        assert (seen[:3], seen[-1]) == (["Be nice", "Sum up", f"step {SHOWN - 4}"], said[length - 1].content)
    assert len(conversation(said)) == SHOWN + 2
    assert [message.content for message in conversation(said[1:3] + said[4:])][:2] == ["Hi", f"step {SHOWN - 2}"]
    said += [AIMessage("more")] * LOOKED_BACK
    assert [message.content for message in conversation(said)][:3] == ["Be nice", "Hi", "more"], "the user's first"
