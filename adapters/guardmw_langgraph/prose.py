"""Which parts of a message are text that a person or a model could read, and so must be judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from langchain_core.messages import BaseMessage

_READABLE: Final = frozenset({"cited_text", "content", "output", "refusal", "summary", "text", "title", "transcript"})
_OPAQUE: Final = frozenset(
    {"base64", "data", "encrypted_content", "encrypted_index", "file_id", "id", "index", "mime_type", "signature",
     "thought_signature", "type"}
)  # fmt: skip


def readable(value: Any, key: str = "text") -> Iterator[str]:
    """Every text in `value`, however deep. Under keys nobody knows, plain ASCII without a blank (an identifier, a
    constant, base64) doesn't count as text."""
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
    """Every text in the content of `message`, one per line."""
    if isinstance(message.content, str):
        return message.content
    texts = (block.get("text") if isinstance(block, dict) else block for block in message.content)
    if all(isinstance(block, str) or block.get("type") == "text" for block in message.content):
        return "\n".join(text for text in texts if text)
    return "\n".join(readable(message.content))
