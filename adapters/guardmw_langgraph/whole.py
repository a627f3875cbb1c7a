"""Whole answers as chunks and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.messages import AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from guardmw_langgraph.answer import as_ai
from guardmw_langgraph.callmarks import MARK
from guardmw_langgraph.slots import Fields


def as_chunk(generation: ChatGeneration) -> ChatGenerationChunk:
    """`generation` as a single chunk; content blocks are numbered, so that pieces of them can be merged again."""
    message = as_ai(generation.message)
    if isinstance(message.content, list):
        message = message.model_copy(update={"content": _numbered(message.content)})
    return ChatGenerationChunk(message=message, generation_info=generation.generation_info)


def merged(chunks: Sequence[ChatGenerationChunk]) -> ChatResult:
    """`chunks` as one answer."""
    message = add_ai_message_chunks(*(cast("AIMessageChunk", chunk.message) for chunk in chunks))
    info: Fields = {}
    for chunk in chunks:
        info.update(chunk.generation_info or {})
    answer = ChatGeneration(message=message_chunk_to_message(message), generation_info=info or None)
    return ChatResult(generations=[answer])


def reassembled(chunks: Sequence[ChatGenerationChunk], original: ChatGeneration) -> ChatGeneration:
    """What `chunks` left of `original`, its blocks numbered as they were."""
    generation = merged(chunks).generations[0]
    message = generation.message
    if isinstance(message.content, list):
        message.content = _renumbered(message.content, original.message)
    message.name = original.message.name
    return generation


def remarked(original: ChatGeneration, last: ChatGenerationChunk) -> ChatGeneration:
    """`original`, of which nothing was changed, with the guard's mark from the `last` chunk."""
    mark = last.message.response_metadata[MARK]
    metadata = {**original.message.response_metadata, MARK: mark}
    message = original.message.model_copy(update={"response_metadata": metadata})
    return ChatGeneration(message=message, generation_info=original.generation_info)


def _numbered(content: list[Any]) -> list[Any]:
    blocks = ({"type": "text", "text": block} if isinstance(block, str) else block for block in content)
    return [{**block, "index": place} for place, block in enumerate(blocks)]


def _renumbered(content: list[Any], original: BaseMessage) -> list[Any]:
    before = [block if isinstance(block, dict) else {} for block in original.content]
    blocks = []
    for block in content:
        fields = {key: value for key, value in block.items() if key != "index"}
        place = block.get("index")
        if isinstance(place, int) and place < len(before) and "index" in before[place]:
            fields["index"] = before[place]["index"]
        blocks.append(fields)
    return blocks
