"""One answer of the inner model, taken apart for the gate and put together from what may be shown. No input or output.

Text and reasoning go through the gate as they come. A block nobody knows (the result of a tool the provider ran) goes
through in its place once it is complete, to be judged before it is shown. Tool calls, citations and the like are held
until the answer is complete. Metadata comes last, cleaned if anything was withheld: token log-probabilities, for one,
spell out the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.outputs import ChatGenerationChunk

from guardmw.stream.items import Delta, Opaque, Released, StreamSurface, Text
from guardmw_langgraph.callmarks import MARK, joined
from guardmw_langgraph.held import CALL_BLOCKS, Held
from guardmw_langgraph.internals import merge_dicts
from guardmw_langgraph.prose import readable
from guardmw_langgraph.slots import Fields, Slot, Track

_TEXT_BLOCKS: Final[dict[str, tuple[StreamSurface, str]]] = {
    "text": ("output", "text"),
    "output_text": ("output", "text"),
    "refusal": ("output", "refusal"),
    "reasoning": ("reasoning", "reasoning"),
    "thinking": ("reasoning", "thinking"),
}
_TEXT_KWARGS: Final[dict[str, StreamSurface]] = {
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
    "refusal": "output",
}
_CALL_KWARGS: Final = frozenset({"tool_calls", "function_call"})
_IDENTITY: Final = ("type", "index", "id")
_ON_EVERY_CHUNK: Final = ("model_provider", "output_version")  # LangChain reads each chunk's blocks by them
_SPELLS_OUT_TEXT: Final = frozenset({"logprobs", "logprobs_result", "prompt_logprobs", "token_ids", "tokens"})
_HARMLESS: Final = frozenset(
    {"created", "created_at", "finish_reason", "headers", "id", "model", "model_name", "model_provider", "object",
     "output_version", "request_id", "service_tier", "status", "stop_reason", "system_fingerprint", "token_usage",
     "usage"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unread:
    """A complete block with `text` that must be judged before the block is rendered."""

    block: Fields
    text: str


class Answer:
    """Push chunks of the inner model, hand the deltas to the gate, render what the gate releases."""

    def __init__(self) -> None:
        self._tracks: dict[StreamSurface, Track] = {"output": Track(), "reasoning": Track()}
        self._held: list[AIMessageChunk] = []
        self._pending: list[AIMessageChunk] = []
        self._metadata: Fields = {}
        self._generation_info: Fields = {}
        self._usage: AIMessageChunk | None = None
        self._inner_mark: Fields | None = None
        self._id: str | None = None
        self._in_list = False
        self._last_index: Any = None
        self._tail = ""
        self._spoiled = False

    @property
    def altered(self) -> bool:
        """True once something was redacted or withheld: from then on metadata that spells out the text is dropped."""
        return self._spoiled or any(track.altered for track in self._tracks.values())

    def push(self, chunk: ChatGenerationChunk) -> list[Delta]:
        """What of `chunk` goes to the gate; the rest is kept here."""
        message = as_ai(chunk.message)
        self._absorb(message, chunk.generation_info)
        content = message.content
        self._in_list = self._in_list or isinstance(content, list)
        deltas = list(self._kwargs(message.additional_kwargs))
        for block in [content] if isinstance(content, str) else content:
            deltas += self._string(block) if isinstance(block, str) else self._block(block)
        spelled = {key: value for key, value in message.additional_kwargs.items() if key in _CALL_KWARGS}
        if message.tool_call_chunks or spelled:  # together: alone, LangChain would read each as a call of its own
            self._hold(tool_call_chunks=message.tool_call_chunks, additional_kwargs=spelled)
        return deltas

    def flush(self) -> list[Delta]:
        """What waited for more of it; to be called when the inner model has said everything."""
        if not self._pending:
            return []
        merged, self._pending = add_ai_message_chunks(self._pending[0], *self._pending[1:]), []
        blocks = [block for block in merged.content if isinstance(block, dict)]
        return [Opaque(Unread(block, "\n".join(readable(block)))) for block in blocks]

    def render(self, item: Released | Opaque) -> Iterator[ChatGenerationChunk]:
        """`item` as chunks, each text back where it stood."""
        if isinstance(item, Opaque):
            unread = isinstance(item.payload, Unread)
            yield self._chunk(**({"content": [item.payload.block]} if unread else item.payload))
            return
        for slot, text in self._tracks[item.surface].release(item):
            if item.surface == "output" and text:
                self._tail = text
            yield self._chunk(**slot.filled(text))

    def held(self) -> Held:
        """What waits for the end: calls, and other readable things; metadata that can be read is one of them."""
        merged = add_ai_message_chunks(self._empty(), *self._held) if self._held else None
        unknown = {k: v for k, v in self._all_metadata().items() if k not in _HARMLESS | _SPELLS_OUT_TEXT | {MARK}}
        return Held(merged, "\n".join(readable(unknown)))

    def settled(self, held: Held) -> Iterator[ChatGenerationChunk]:
        """What is left of `held` after its parts were judged, as one chunk at most."""
        self._spoiled = self._spoiled or held.reduced
        fields = held.fields()
        if fields:
            yield self._chunk(**{"content": self._nothing(), **fields})

    def dropped(self) -> None:
        """To be called when something was neither rendered nor replaced."""
        self._spoiled = True

    def replacement(self, text: str) -> ChatGenerationChunk:
        """`text` as a paragraph of its own, after whatever was released."""
        self._spoiled = True
        text = text if not self._tail or self._tail[-1:].isspace() else f"\n\n{text}"
        if not self._in_list:
            return self._chunk(content=text)
        block: Fields = {"type": "text", "text": text}
        if isinstance(self._last_index, int):
            block["index"] = self._last_index + 1
        elif self._last_index is not None:
            block["index"] = "lc_txt_guardmw"
        return self._chunk(content=[block])

    def final(self, mark: Fields, *, cut: bool) -> ChatGenerationChunk:
        """The last chunk: usage and metadata. `cut` when the answer doesn't end as the model ended it."""
        metadata, info = self.clean(self._metadata), self.clean(self._generation_info)
        if cut:
            metadata.pop("stop_reason", None)
            info.pop("stop_reason", None)
            info.pop("finish_reason", None)
            metadata["finish_reason"] = "content_filter"
        message = AIMessageChunk(
            content=self._nothing(),
            response_metadata={**metadata, MARK: _joined(self._inner_mark, mark)},
            usage_metadata=self._usage.usage_metadata if self._usage else None,
            id=self._id,
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message, generation_info=info or None)

    def clean(self, metadata: Fields) -> Fields:
        """`metadata`, without whatever could tell of text that was withheld, if any was."""
        return {k: v for k, v in metadata.items() if k in _HARMLESS} if self.altered else dict(metadata)

    def _absorb(self, message: AIMessageChunk, generation_info: Fields | None) -> None:
        self._id = self._id or message.id
        self._inner_mark = message.response_metadata.get(MARK, self._inner_mark)
        self._metadata = merge_dicts(self._metadata, _without(message.response_metadata, (MARK,)))
        self._generation_info = merge_dicts(self._generation_info, generation_info or {})
        if message.usage_metadata is not None:
            usage = AIMessageChunk(content="", usage_metadata=message.usage_metadata)
            self._usage = usage if self._usage is None else add_ai_message_chunks(self._usage, usage)

    def _text(self, surface: StreamSurface, slot: Slot, text: str) -> Iterator[Delta]:
        if text:
            self._tracks[surface].push(slot, text)
            yield Text(surface, text)

    def _string(self, text: str) -> Iterator[Delta]:
        return self._text("output", Slot("content", in_list=self._in_list), text)

    def _kwargs(self, kwargs: Fields) -> Iterator[Delta]:
        for key, value in kwargs.items():
            if key in _TEXT_KWARGS and isinstance(value, str):
                yield from self._text(_TEXT_KWARGS[key], Slot("kwarg", key, in_list=self._in_list), value)
            elif key in _CALL_KWARGS:
                continue
            elif any(readable(value, key)):
                self._hold(additional_kwargs={key: value})
            else:
                yield Opaque({"content": self._nothing(), "additional_kwargs": {key: value}})

    def _block(self, block: Fields) -> Iterator[Delta]:
        kind, index = block.get("type"), block.get("index")
        if index is None or index != self._last_index:
            yield from self.flush()
        self._last_index = self._last_index if index is None else index
        if kind in _TEXT_BLOCKS:
            yield from self._text_block(block, *_TEXT_BLOCKS[cast("str", kind)])
        elif kind in CALL_BLOCKS and not self._pending:
            self._hold(content=[block])
        else:
            self._pending.append(AIMessageChunk(content=[block]))

    def _text_block(self, block: Fields, surface: StreamSurface, key: str) -> Iterator[Delta]:
        identity: Fields = {name: block[name] for name in _IDENTITY if name in block}
        rest = _without(block, (*identity, key))
        if isinstance(block.get(key), str):
            yield from self._text(surface, Slot("block", key, identity), block[key])
        summary = block.get("summary")
        if isinstance(summary, list) and all(isinstance(part, dict) for part in summary):
            rest.pop("summary")
            yield from self._summary(identity, summary)
        if rest or not readable_text(block, key):
            filler = {key: ""} if key in block else {}
            block = {**identity, **filler, **rest}
            if any(readable(block)):
                self._hold(content=[block])
            else:
                yield Opaque({"content": [block]})

    def _summary(self, identity: Fields, summary: Iterable[Fields]) -> Iterator[Delta]:
        for part in summary:
            slot = Slot("summary", block=identity, part=_without(part, ("text",)))
            yield from self._text("reasoning", slot, str(part.get("text") or ""))

    def _hold(self, **fields: Any) -> None:
        self._held.append(AIMessageChunk(**{"content": self._nothing(), **fields}))

    def _chunk(self, **fields: Any) -> ChatGenerationChunk:
        common = {key: self._metadata[key] for key in _ON_EVERY_CHUNK if key in self._metadata}
        return ChatGenerationChunk(message=AIMessageChunk(**fields, id=self._id, response_metadata=common))

    def _empty(self) -> AIMessageChunk:
        return AIMessageChunk(content=self._nothing())

    def _nothing(self) -> str | list[str | Fields]:
        return [] if self._in_list else ""

    def _all_metadata(self) -> Fields:
        return {**self._generation_info, **self._metadata}


def _joined(inner: Fields | None, mark: Fields) -> Fields:
    """The mark of an answer that passed two guards: what withheld something counts, the inner one first."""
    if not isinstance(inner, dict):
        return mark
    answers = [*inner.get("answers", ()), *mark["answers"]]
    both: Fields = {**(mark if inner.get("action") == "allow" else inner), "answers": answers}
    if "calls" in mark:
        both["calls"] = joined(inner.get("calls", ()), mark["calls"])
    return both


def readable_text(block: Fields, key: str) -> bool:
    """Whether `block` carries text under `key` or in a summary, so that it needn't be passed on as an empty one."""
    return bool(block.get(key) or block.get("summary"))


def _without(fields: Fields, keys: Iterable[str]) -> Fields:
    return {key: value for key, value in fields.items() if key not in keys}


def as_ai(message: BaseMessage) -> AIMessageChunk:
    """`message` as a chunk of an AI message: some models stream other kinds, or whole messages."""
    if isinstance(message, AIMessageChunk):
        return message
    names = ("tool_calls", "invalid_tool_calls", "usage_metadata")
    fields = {name: value for name in names if (value := getattr(message, name, None))}
    return AIMessageChunk(
        content=message.content,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        id=message.id,
        **fields,
    )
