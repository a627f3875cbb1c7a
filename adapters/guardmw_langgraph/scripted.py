"""A chat model that says what it was told to, delta by delta. Import it from `guardmw.testing`."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

__all__ = ["ScriptedChatModel"]

Turn = str | Sequence[str | dict[str, Any] | AIMessageChunk | Exception] | Exception
"""What one call of the model answers: a text, or deltas in order."""


class ScriptedChatModel(BaseChatModel):
    """Answers its n-th call with the n-th of `turns`, streamed, with `delay_s` before every delta.

    A turn is a text, streamed word by word, or a list of deltas: texts, tool calls (``{"name": ..., "args": {...}}``,
    ``id`` optional; their arguments arrive in several chunks), AIMessageChunks as they are, and exceptions, which are
    raised when their place is reached. Unless the last one is marked so, a chunk with ``finish_reason`` is added.

    `calls` counts the answers begun, `emitted` the deltas given out, `closed` the streams that were closed or
    cancelled before their end, and `prompts` lists the messages of every call; copies made by `bind` share them.

    Raises IndexError when it is called more often than it has turns.
    """

    turns: list[Any] = Field(repr=False)  # tracers write down the repr of a model before it says anything
    delay_s: float = 0.0
    _calls: int = PrivateAttr(default=0)
    _emitted: int = PrivateAttr(default=0)
    _closed: int = PrivateAttr(default=0)
    _prompts: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def __init__(self, turns: Sequence[Turn], delay_s: float = 0.0, **fields: Any) -> None:
        super().__init__(turns=list(turns), delay_s=delay_s, **fields)

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def emitted(self) -> int:
        return self._emitted

    @property
    def closed(self) -> int:
        return self._closed

    @property
    def prompts(self) -> list[list[BaseMessage]]:
        return self._prompts

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Accepts any tools; what is called is up to the turns."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _merged(list(self._stream(messages, stop)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _merged([chunk async for chunk in self._astream(messages, stop)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        try:
            for item in self._next_turn(messages):
                time.sleep(self.delay_s)
                chunk = self._emit(item)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        except GeneratorExit:
            self._closed += 1
            raise

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        try:
            for item in self._next_turn(messages):
                await asyncio.sleep(self.delay_s)
                chunk = self._emit(item)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        except (GeneratorExit, asyncio.CancelledError):
            self._closed += 1
            raise

    def _next_turn(self, messages: list[BaseMessage]) -> list[AIMessageChunk | Exception]:
        call, self._calls = self._calls, self._calls + 1
        self._prompts.append(list(messages))
        if call >= len(self.turns):
            raise IndexError(
                f"ScriptedChatModel was called {call + 1} times and has {len(self.turns)} turns; "
                "give `turns` one entry for every call of the model"
            )
        return _chunks(self.turns[call])

    def _emit(self, item: AIMessageChunk | Exception) -> ChatGenerationChunk:
        if isinstance(item, Exception):
            raise item
        if item.chunk_position != "last":
            self._emitted += 1
        return ChatGenerationChunk(message=item.model_copy(deep=True))


def _chunks(turn: Turn) -> list[AIMessageChunk | Exception]:
    if isinstance(turn, Exception):
        return [turn]
    parts = re.findall(r"\s*\S+\s*?(?=\s|$)|\s+$", turn) if isinstance(turn, str) else turn
    chunks: list[AIMessageChunk | Exception] = []
    tool_calls = 0
    for part in parts:
        if isinstance(part, dict):
            chunks += _tool_call(part, tool_calls)
            tool_calls += 1
        else:
            chunks.append(AIMessageChunk(content=part) if isinstance(part, str) else part)
    if isinstance(turn, str) or not _ends(chunks):
        chunks.append(_last("tool_calls" if tool_calls else "stop"))
    return chunks


def _ends(chunks: list[AIMessageChunk | Exception]) -> bool:
    last = chunks[-1] if chunks else None
    return isinstance(last, Exception) or (last is not None and last.chunk_position == "last")


def _tool_call(call: dict[str, Any], index: int) -> list[AIMessageChunk | Exception]:
    if "name" not in call:
        raise ValueError(f"a tool call is {{'name': ..., 'args': {{...}}}}, not {call!r}")
    args = json.dumps(call.get("args", {}))
    middle = len(args) // 2
    pieces = [
        tool_call_chunk(name=call["name"], args="", id=call.get("id", f"call_{call['name']}_{index}"), index=index),
        tool_call_chunk(args=args[:middle], index=index),
        tool_call_chunk(args=args[middle:], index=index),
    ]
    return [AIMessageChunk(content="", tool_call_chunks=[piece]) for piece in pieces]


def _last(finish_reason: str) -> AIMessageChunk:
    metadata = {"finish_reason": finish_reason, "model_name": "scripted"}
    return AIMessageChunk(content="", response_metadata=metadata, chunk_position="last")


def _merged(chunks: list[ChatGenerationChunk]) -> ChatResult:
    message = add_ai_message_chunks(*(cast("AIMessageChunk", chunk.message) for chunk in chunks))
    return ChatResult(generations=[ChatGeneration(message=message_chunk_to_message(message))])
