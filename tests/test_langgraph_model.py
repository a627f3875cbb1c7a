"""A guarded model is the model it guards, minus what may not pass."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from guardmw.errors import UnguardedError
from guardmw.policy.match import PolicySet
from guardmw.policy.schema import Policy
from guardmw.testing import FakeGuard, ScriptedChatModel, collect
from guardmw_langgraph import guard_model
from langgraph_world import BAD, CLEAN, FORBIDDEN, MAIL, REPLACEMENT, UNAVAILABLE, guarded, policy, whole


async def test_upstream_is_closed_by_a_block() -> None:
    model = ScriptedChatModel([BAD], delay_s=0.002)
    chunks = await collect(guarded(model).astream("Hello"))
    assert whole(chunks).text.endswith(REPLACEMENT)
    assert model.closed == 1
    assert model.emitted < len(BAD.split())


async def test_upstream_is_closed_when_the_consumer_leaves() -> None:
    model = ScriptedChatModel([CLEAN * 20], delay_s=0.001)
    stream = guarded(model).astream("Hello")
    await anext(stream)
    await stream.aclose()
    assert model.closed == 1


async def test_upstream_is_closed_when_the_consumer_is_cancelled() -> None:
    model = ScriptedChatModel([CLEAN * 20], delay_s=0.001)
    task = asyncio.create_task(collect(guarded(model).astream("Hello")))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_upstream_is_closed_when_a_synchronous_consumer_leaves() -> None:
    model = ScriptedChatModel([CLEAN * 20], delay_s=0.001)
    stream = guarded(model).stream("Hello")
    next(stream)
    stream.close()
    assert model.closed == 1


async def test_after_a_block_metadata_tells_why_and_nothing_else() -> None:
    parts = [
        AIMessageChunk(
            content="fine ", response_metadata={"logprobs": {"content": [{"token": "fine "}]}, "odd": "two words"}
        ),
        AIMessageChunk(content=FORBIDDEN, response_metadata={"logprobs": {"content": [{"token": FORBIDDEN}]}}),
        AIMessageChunk(content="", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    ]
    answer = await guarded(ScriptedChatModel([parts])).ainvoke("Hello")
    assert answer.response_metadata.pop("guardmw").items() >= {
        "action": "block", "category": "forbidden", "surface": "output", "policy": "test", "agent": "default"
    }.items()  # fmt: skip
    assert answer.response_metadata == {"finish_reason": "content_filter", "model_name": "scripted"}
    assert answer.usage_metadata["total_tokens"] == 3


async def test_clean_answers_keep_their_log_probabilities() -> None:
    part = AIMessageChunk(content="fine", response_metadata={"logprobs": {"content": [{"token": "fine"}]}})
    streamed = whole(await collect(guarded(ScriptedChatModel([[part]])).astream("Hello")))
    assert streamed.response_metadata["logprobs"] == {"content": [{"token": "fine"}]}


@pytest.mark.parametrize("whole_answer", [False, True])
async def test_readable_metadata_is_judged_too(whole_answer: bool) -> None:
    part = AIMessageChunk(content="fine", response_metadata={"grounding": [{"title": f"all about {FORBIDDEN}"}]})
    model = guarded(ScriptedChatModel([[part]]))
    answer = await model.ainvoke("Hi") if whole_answer else whole(await collect(model.astream("Hi")))
    assert FORBIDDEN not in repr(answer)
    assert answer.text == f"fine\n\n{REPLACEMENT}"


async def test_unknown_blocks_are_judged_and_pass_when_clean() -> None:
    def parts(text: str) -> list[AIMessageChunk]:
        blocks: list[Any] = [
            {"type": "text", "text": "See: ", "index": 0},
            {"type": "web_search_result", "content": [{"title": text}], "index": 1},
            {"type": "image", "url": "https://example.com/picture.png", "index": 2},
        ]
        return [AIMessageChunk(content=[block]) for block in blocks]

    good = await guarded(ScriptedChatModel([parts("All is well")])).ainvoke("Hello")
    assert [block["type"] for block in good.content] == ["text", "web_search_result", "image"]
    bad = whole(await collect(guarded(ScriptedChatModel([parts(f"a {FORBIDDEN}")])).astream("Hello")))
    assert FORBIDDEN not in repr(bad)
    assert bad.text == f"See: {REPLACEMENT}"


class Weather(BaseModel):
    """The weather."""

    city: str


def _weather(city: str) -> ScriptedChatModel:
    return ScriptedChatModel([[{"name": "Weather", "args": {"city": city}}]])


class Json(ScriptedChatModel):
    """Structured output the way of providers that take a schema."""

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Any:
        parse = RunnableLambda(lambda message: schema.model_validate_json(message.text))
        return self.bind(response_format=schema.model_json_schema()) | parse


async def test_structured_output_is_guarded() -> None:
    assert await guarded(_weather("Rome")).with_structured_output(Weather).ainvoke("?") == Weather(city="Rome")
    assert await guarded(_weather(FORBIDDEN)).with_structured_output(Weather).ainvoke("?") is None
    raw = await guarded(_weather(MAIL)).with_structured_output(Weather, include_raw=True).ainvoke("?")
    assert raw["parsed"] == Weather(city="[EMAIL]")
    assert MAIL not in repr(raw)


async def test_structured_output_as_json_is_guarded() -> None:
    clean = guarded(Json(turns=['{"city": "Rome"}'])).with_structured_output(Weather)
    assert await clean.ainvoke("?") == Weather(city="Rome")
    blocked = guarded(Json(turns=[f'{{"city": "{FORBIDDEN}"}}'])).with_structured_output(Weather)
    with pytest.raises(ValueError, match="Invalid JSON") as error:
        await blocked.ainvoke("?")
    assert FORBIDDEN not in str(error.value)


async def test_a_model_that_hides_itself_is_refused() -> None:
    class Hidden(ScriptedChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return RunnableLambda(self.ainvoke)

    with pytest.raises(UnguardedError, match="finds no chat model to guard"):
        guarded(Hidden(turns=["x"])).bind_tools([])


async def test_what_is_built_on_a_guarded_model_stays_guarded() -> None:
    failing = ScriptedChatModel([ValueError("down"), BAD, BAD, BAD, ValueError("down")])
    model = guarded(failing)
    assert (
        await model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).ainvoke("?")
    ).text == REPLACEMENT
    assert (await model.bind(stop=["x"]).ainvoke("?")).text == REPLACEMENT
    assert (await model.with_config(tags=["t"]).ainvoke("?")).text == REPLACEMENT
    other = guarded(ScriptedChatModel([BAD]))
    assert (await model.with_fallbacks([other]).ainvoke("?")).text == REPLACEMENT


def test_only_chat_models_can_be_guarded() -> None:
    with pytest.raises(TypeError, match="guard the model first"):
        guard_model(ScriptedChatModel(["x"]).bind(stop=["y"]), policy())  # type: ignore[arg-type]


class OnlyWhole(BaseChatModel):
    """Can't stream, answers synchronously, and gives several answers."""

    texts: list[str]

    @property
    def _llm_type(self) -> str:
        return "whole"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        answers = [ChatGeneration(message=AIMessage(text), generation_info={"n": text}) for text in self.texts]
        return ChatResult(generations=answers, llm_output={"model_name": "whole", "raw": "\n".join(self.texts)})


async def test_models_that_cannot_stream() -> None:
    assert [chunk.text async for chunk in guarded(OnlyWhole(texts=[BAD])).astream("?") if chunk.text] == [REPLACEMENT]
    assert (await asyncio.to_thread(guarded(OnlyWhole(texts=[CLEAN])).invoke, "?")).text == CLEAN


async def test_every_one_of_several_answers_is_judged() -> None:
    result = await guarded(OnlyWhole(texts=[CLEAN, BAD, MAIL])).agenerate([[HumanMessage("?")]])
    assert [generation.text for generation in result.generations[0]] == [CLEAN, REPLACEMENT, "[EMAIL]"]
    assert FORBIDDEN not in repr(result)


async def test_generic_models_work() -> None:
    inner = GenericFakeChatModel(messages=iter([AIMessage(CLEAN), AIMessage(BAD)]))
    model = guarded(inner)
    assert whole(await collect(model.astream("?"))).text == CLEAN
    assert whole(await collect(model.astream("?"))).text.endswith(REPLACEMENT)


@pytest.mark.parametrize("setting", [{"disable_streaming": True}, {"streaming": True}])
async def test_settings_about_streaming_are_kept(setting: dict[str, bool]) -> None:
    class Settable(ScriptedChatModel):
        streaming: bool = False

    model = Settable(turns=[CLEAN, CLEAN, BAD], **setting)
    chunks = [chunk async for chunk in guarded(model).astream("?")]
    assert whole(chunks).text == CLEAN
    assert (sum(bool(chunk.text) for chunk in chunks) == 1) == ("disable_streaming" in setting)
    assert (await guarded(model).ainvoke("?")).text == CLEAN
    assert (await guarded(model).ainvoke("?")).text.endswith(REPLACEMENT)
    assert model.closed == ("streaming" in setting)


async def test_an_error_of_the_model_comes_after_what_it_said() -> None:
    model = guarded(ScriptedChatModel([["Hello ", "there", ConnectionError("gone")]]))
    seen: list[str] = []

    async def consume() -> None:
        async for chunk in model.astream("?"):
            seen.append(chunk.text)

    with pytest.raises(ConnectionError, match="gone"):
        await consume()
    assert "".join(seen) == "Hello there"


async def test_shadow_mode_changes_nothing() -> None:
    answer = await guarded(ScriptedChatModel([f"{BAD} {MAIL}"]), mode="shadow").ainvoke(FORBIDDEN)
    assert answer.text == f"{BAD} {MAIL}"


async def test_pass_mode_shows_early_only_what_is_streamed() -> None:
    model = guarded(ScriptedChatModel([BAD] * 2, delay_s=0.001), streaming={"mode": "pass"})
    whole_answer = await model.ainvoke("?")
    assert whole_answer.text == REPLACEMENT
    assert whole_answer.response_metadata["guardmw"]["policy_hash"] == policy(streaming={"mode": "pass"}).hash
    assert whole(await collect(model.astream("?"))).text.endswith(REPLACEMENT)


async def test_a_guard_that_dies_in_mid_stream() -> None:
    model = ScriptedChatModel([CLEAN * 5], delay_s=0.001)
    guard = FakeGuard(FORBIDDEN, fail="error", fail_after=3)
    answer = whole(await collect(guard_model(model, policy(), guard=guard).astream("?")))
    shown = answer.text.removesuffix(UNAVAILABLE).rstrip("\n")
    assert (CLEAN * 5).startswith(shown)
    assert 0 < len(shown) < len(CLEAN * 5)
    assert model.closed == 1


async def test_the_policy_of_the_agent_decides() -> None:
    strict, lax = policy(id="strict", agents=("bank*",)), Policy(id="lax", agents=("shop",))
    for agent, text in (("bank-1", REPLACEMENT), ("shop", FORBIDDEN)):
        model = guard_model(
            ScriptedChatModel([FORBIDDEN]), PolicySet([strict, lax]), guard=FakeGuard(FORBIDDEN), agent=agent
        )
        assert (await model.ainvoke("?")).text == text
