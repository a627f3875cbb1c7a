"""What passes the guard whole is what the model said: every block, id, signature and call, however it was cut."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.tool import tool_call_chunk

from guardmw.testing import FakeGuard, ScriptedChatModel, collect, deltas
from guardmw_langgraph import guard_model
from guardmw_langgraph.prose import readable
from langgraph_world import policy

Chunks = list[AIMessageChunk]
plain = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters='"\\')  # JSON writes the others as escapes
texts = st.text(plain, min_size=1, max_size=60)
sizes = st.integers(1, 12)


def _meta(**metadata: Any) -> AIMessageChunk:
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    return AIMessageChunk(content="", response_metadata=metadata, usage_metadata=usage, chunk_position="last")


@st.composite
def anthropic(draw: st.DrawFn) -> Chunks:
    """Thinking with a signature, text with citations, a tool call spelled twice."""
    size = draw(sizes)
    head = {"model_provider": "anthropic"}
    blocks: list[Any] = [
        *({"type": "thinking", "thinking": part, "index": 0} for part in deltas(draw(texts), size)),
        {"type": "thinking", "signature": "c2lnbmF0dXJl", "index": 0},
        {"type": "text", "text": "", "index": 1},
        *({"type": "text", "text": part, "index": 1} for part in deltas(draw(texts), size)),
        {"type": "text", "text": "", "citations": [{"cited_text": draw(texts), "index": 0}], "index": 1},
    ]
    chunks = [AIMessageChunk(content=[block], response_metadata=head, id="msg_1") for block in blocks]
    search = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}, "index": 2},
        *({"type": "input_json_delta", "partial_json": part, "index": 2} for part in deltas(draw(texts), size)),
        {"type": "web_search_tool_result", "content": [{"title": draw(texts)}], "index": 3},
        {"type": "text", "text": draw(texts), "index": 4},
    ]
    chunks += [AIMessageChunk(content=[block], response_metadata=head) for block in search]
    args = deltas(json.dumps({"q": draw(texts)}), size)
    begin = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}, "index": 5}
    call = tool_call_chunk(name="find", args="", id="toolu_1", index=5)
    chunks.append(AIMessageChunk(content=[begin], tool_call_chunks=[call], response_metadata=head))
    for part in args:
        delta = {"type": "input_json_delta", "partial_json": part, "index": 5}
        chunks.append(AIMessageChunk(content=[delta], tool_call_chunks=[tool_call_chunk(args=part, index=5)]))
    last = AIMessageChunk(content=[], response_metadata={"stop_reason": "tool_use", **head}, chunk_position="last")
    return [*chunks, last]


@st.composite
def openai(draw: st.DrawFn) -> Chunks:
    """Reasoning beside the content, calls in additional_kwargs too, log-probabilities."""
    size = draw(sizes)
    chunks = [AIMessageChunk(content="", id="chatcmpl-1", response_metadata={"model_provider": "openai"})]
    chunks += [
        AIMessageChunk(content="", additional_kwargs={"reasoning_content": part}) for part in deltas(draw(texts), size)
    ]
    for part in deltas(draw(texts), size):
        logprobs = {"logprobs": {"content": [{"token": part, "logprob": -0.5}]}}
        chunks.append(AIMessageChunk(content=part, response_metadata=logprobs))
    for number, name in enumerate(("find", "look")):
        args, call_id = json.dumps({"q": draw(texts)}), f"call_{number}"
        for place, part in enumerate(deltas(args, size)):
            ident = {"name": name, "id": call_id} if place == 0 else {}
            call = tool_call_chunk(args=part, index=number, **ident)
            function = {"arguments": part, **({"name": name} if place == 0 else {})}
            spelled = {"index": number, "function": function, **({"id": call_id} if place == 0 else {})}
            chunks.append(
                AIMessageChunk(content="", tool_call_chunks=[call], additional_kwargs={"tool_calls": [spelled]})
            )
    return [*chunks, _meta(finish_reason="tool_calls", model_name="gpt")]


@st.composite
def responses(draw: st.DrawFn) -> Chunks:
    """Reasoning summaries in parts, text with annotations, a search the provider made, a picture."""
    size = draw(sizes)
    blocks: list[Any] = [{"type": "reasoning", "id": "rs_1", "summary": [], "index": 0}]
    for number in range(2):
        for part in deltas(draw(texts), size):
            summary = [{"index": number, "type": "summary_text", "text": part}]
            blocks.append({"type": "reasoning", "summary": summary, "index": 0})
    blocks += [{"type": "text", "text": part, "index": 1, "id": "msg_1"} for part in deltas(draw(texts), size)]
    blocks.append({"type": "text", "annotations": [{"type": "url_citation", "title": draw(texts)}], "index": 1})
    blocks.append({"type": "image", "base64": "aGVsbG8=", "mime_type": "image/png", "index": 2})
    blocks.append({"type": "web_search_call", "id": "ws_1", "status": "completed", "index": 3})
    return [
        *(AIMessageChunk(content=[block]) for block in blocks),
        AIMessageChunk(content=[], response_metadata={"id": "resp_1"}, chunk_position="last"),
    ]


def _canonical(message: AIMessage) -> Any:
    """All that matters of a message, blocks in their order."""
    fields = message.model_dump(exclude={"response_metadata", "type"})
    metadata = {key: value for key, value in message.response_metadata.items() if key != "guardmw"}
    return {**fields, "response_metadata": metadata}


def _merged(chunks: Chunks) -> AIMessage:
    message = message_chunk_to_message(sum(chunks[1:], chunks[0]))
    assert isinstance(message, AIMessage)
    return message


async def _compare(chunks: Chunks, *, stream: bool) -> None:
    raw, model = ScriptedChatModel([chunks]), ScriptedChatModel([chunks])
    guarded = guard_model(model, policy(detectors={}), guard=FakeGuard())
    if stream:
        before, after = _merged(await collect(raw.astream("?"))), _merged(await collect(guarded.astream("?")))
    else:
        before, after = await raw.ainvoke("?"), await guarded.ainvoke("?")
    ours = {"id"} if (before.id or "").startswith("lc_run") else set()
    expected, got = _canonical(before), _canonical(after)
    assert {k: v for k, v in got.items() if k not in ours} == {k: v for k, v in expected.items() if k not in ours}


@given(st.one_of(anthropic(), openai(), responses()), st.booleans())
def test_clean_answers_are_what_the_model_said(chunks: Chunks, stream: bool) -> None:
    asyncio.run(_compare(chunks, stream=stream))


@given(st.one_of(anthropic(), openai(), responses()), st.data())
def test_nothing_of_a_marked_answer_survives_anywhere(chunks: Chunks, data: st.DataObject) -> None:
    """Whatever string of the answer is forbidden, and wherever it stood, it is nowhere in what comes out."""
    whole = _merged(chunks)
    found = [*readable(whole.content), *(call["args"]["q"] for call in whole.tool_calls)]
    found += [whole.additional_kwargs.get("reasoning_content", ""), str(whole.text)]
    found = [text for text in found if len(text) > 3 and not text.isascii()] or ["\0"]
    marker = data.draw(st.sampled_from(found))
    guarded = guard_model(ScriptedChatModel([chunks] * 2), policy(detectors={}), guard=FakeGuard(marker))

    async def answers() -> list[Any]:
        return [await collect(guarded.astream("?")), await guarded.ainvoke("?")]

    forms = {marker, repr(marker)[1:-1], json.dumps(marker)[1:-1]}
    for answer in asyncio.run(answers()):
        joined = answer.text if isinstance(answer, AIMessage) else "".join(chunk.text for chunk in answer)
        assert not any(form in repr(answer) or form in joined for form in forms)
