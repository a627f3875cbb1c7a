"""Which parts of a message are text that a person or a model could read, and so must be judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from langchain_core.messages import BaseMessage

from guardmw_langgraph.blocks import block_text

_READABLE: Final = frozenset({"cited_text", "content", "output", "refusal", "summary", "text", "title", "transcript"})
_OPAQUE: Final = frozenset(
    {"base64", "data", "encrypted_content", "encrypted_index", "file_id", "id", "index", "mime_type", "signature",
     "thought_signature", "type"}
)  # fmt: skip


def readable(value: Any, key: str = "text") -> Iterator[str]:
    """Every text in `value`, a part of a model's answer, however deep. Under keys nobody knows, plain ASCII without a
    blank (an identifier, a constant, base64) doesn't count as text."""
    if key in _OPAQUE:
        return
    if isinstance(value, str):
        if value and (key in _READABLE or not value.isascii() or any(map(str.isspace, value))):
            yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from readable(part, str(name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from readable(part, key)


def content_text(message: BaseMessage) -> str:
    """All that can be read in the content of a tool's `message`, a line for each of its blocks."""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(text for block in message.content if (text := block_text(block)))
