"""What waits until an answer is complete: tool calls in all their spellings, and other things that can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from langchain_core.messages import AIMessageChunk
from langchain_core.messages import ToolCall as LangChainCall
from langchain_core.utils.json import parse_partial_json

from guardmw.policy.escapes import whole_escapes
from guardmw.types import Decision, ToolCall, apply_redactions
from guardmw_langgraph.prose import readable
from guardmw_langgraph.slots import Fields

CALL_BLOCKS: Final = frozenset(
    {"custom_tool_call", "function_call", "input_json_delta", "invalid_tool_call", "tool_call", "tool_call_chunk",
     "tool_use"}
)  # fmt: skip
"""Content blocks that say again what a tool call says."""


class Held:
    """Calls are judged one by one, the rest together: put what was decided into `calls` and `rest_allowed`.

    `calls` start as the model wrote them; None withholds a call, another value replaces it.
    """

    def __init__(self, merged: AIMessageChunk | None, metadata_text: str) -> None:
        self._merged = merged
        self._asked = _calls_of(merged) if merged is not None else []
        self.calls: list[ToolCall | None] = list(self._asked)
        self.rest = "\n".join(text for text in (*self._rest(), metadata_text) if text)
        self.rest_allowed = not self.rest  # until somebody judged it

    @property
    def reduced(self) -> bool:
        """True when not everything held may be shown as it was."""
        return not self.rest_allowed or self.calls != self._asked

    def fields(self) -> Fields:
        """What may be shown, as arguments for an AIMessageChunk; empty when there is nothing."""
        merged = self._merged
        if merged is None:
            return {}
        fields: Fields = {
            "tool_call_chunks": list(self._chunks(merged)),
            "additional_kwargs": dict(self._kwargs(merged.additional_kwargs)),
        }
        if isinstance(merged.content, list):
            fields["content"] = [block for block in merged.content if block and self._keeps(block)]
        return fields if any(fields.values()) else {}

    def _chunks(self, merged: AIMessageChunk) -> Iterator[Fields]:
        for chunk, asked, kept in zip(merged.tool_call_chunks, self._asked, self.calls, strict=False):
            if kept is not None:
                yield {**chunk} if kept == asked else {**chunk, "name": kept.name, "args": kept.arguments}

    def _kwargs(self, kwargs: Fields) -> Iterator[tuple[str, Any]]:
        for key, value in kwargs.items():
            if key == "tool_calls" and isinstance(value, list):
                kept = [call for call in value if self._keeps_call(call)]
                if kept:
                    yield key, kept
            elif key == "function_call":
                if self.calls == self._asked:
                    yield key, value
            elif self.rest_allowed:
                yield key, value

    def _keeps(self, block: str | Fields) -> bool:
        if isinstance(block, dict) and self._repeats_call(block):
            return self._keeps_call(block)
        return self.rest_allowed

    def _keeps_call(self, spelling: Fields) -> bool:
        if self.calls == self._asked:
            return True
        pairs = list(zip(self.calls, self._asked, strict=True))
        unchanged = {call.id for call, asked in pairs if call and call == asked}
        changed = {asked.id for call, asked in pairs if call != asked}  # an id given twice may be both
        return bool(call_ids(spelling) & (unchanged - changed - {None}))

    def _repeats_call(self, block: Fields) -> bool:
        if block.get("type") not in CALL_BLOCKS:
            return False
        return bool(call_ids(block) & {call.id for call in self._asked if call.id})

    def _rest(self) -> Iterator[str]:
        """The texts of everything that doesn't merely repeat a call."""
        if self._merged is None:
            return
        for block in self._merged.content if isinstance(self._merged.content, list) else ():
            if not (isinstance(block, dict) and self._repeats_call(block)):
                yield from readable(block)
        for key, value in self._merged.additional_kwargs.items():
            if key not in ("tool_calls", "function_call"):
                yield from readable(value, key)


def _calls_of(merged: AIMessageChunk) -> list[ToolCall]:
    calls = [ToolCall(chunk["name"] or "", canonical(chunk["args"]), chunk["id"]) for chunk in merged.tool_call_chunks]
    spelled = merged.additional_kwargs
    others = [call.get("function", {}) for call in spelled.get("tool_calls", []) if isinstance(call, dict)]
    if not calls:  # models that fill only the older spellings
        calls = [
            ToolCall(str(call.get("name") or ""), canonical(call.get("arguments")))
            for call in (*others, spelled.get("function_call"))
            if isinstance(call, dict)
        ]
    return calls


def canonical(arguments: str | None) -> str:
    """`arguments` as LangChain will read them (it completes JSON that breaks off), as JSON that shows every character;
    what it can't read, or only with more nesting than Python bears, stays as it is."""
    try:
        return json.dumps(parse_partial_json(arguments or "{}"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments or "{}"


def rendered(call: ToolCall) -> str:
    """The text a guard judges: ``name({...})``."""
    return f"{call.name}({call.arguments})"


def redacted(call: ToolCall, decision: Decision) -> ToolCall | None:
    """`call` with the decision's redactions; None when what is left is no call of that tool with JSON arguments."""
    whole = rendered(call)
    text = apply_redactions(whole, whole_escapes(whole, decision.redactions))
    start, arguments = f"{call.name}(", text[len(call.name) + 1 : -1]
    if not (text.startswith(start) and text.endswith(")")):
        return None
    try:
        return ToolCall(call.name, json.dumps(json.loads(arguments), ensure_ascii=False), call.id)
    except (ValueError, RecursionError):
        return None


def call_ids(spelling: Fields) -> set[str | None]:
    """The ids by which a spelling of a call names it."""
    return {value for key in ("id", "call_id") if isinstance(value := spelling.get(key), str)}


def call_of(call: LangChainCall) -> ToolCall:
    """A call of a message as a guard sees it."""
    return ToolCall(call["name"], json.dumps(call["args"], ensure_ascii=False, default=str), call.get("id"))
