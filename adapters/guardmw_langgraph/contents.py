"""What a tool returned, read as the model will read it, and put together again from what it may read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.messages import ToolMessage
from langchain_core.tools.base import TOOL_MESSAGE_BLOCK_TYPES

from guardmw.policy.escapes import json_container
from guardmw_langgraph.blocks import MEDIA, bare, is_media
from guardmw_langgraph.prose import content_text
from guardmw_langgraph.slots import Fields

_BINARY_SHARE: Final = 0.1
"""A text with a larger share of control characters is binary data that was taken for text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`text` is all that can be read in a content, as the model will read it; `media` are its other parts, without what
    is said beside them."""

    text: str
    media: tuple[Fields, ...] = ()
    binary: bool = False

    @property
    def kinds(self) -> list[str]:
        """What there is besides text: ``image``, ``audio``, ``video``, ``file``, ``binary data``."""
        return [MEDIA[block["type"]] for block in self.media] + ["binary data"] * self.binary

    def content(self, shown: str) -> Any:
        """A content that says `shown`, with the media."""
        return [{"type": "text", "text": shown}, *self.media] if self.media else shown

    def without_media(self) -> str:
        """The text, with a line for each of the media."""
        left_out = (f"[{kind} left out: it can't be judged]" for kind in self.kinds)
        return "\n".join(part for part in ("" if self.binary else self.text, *left_out) if part)

    def described(self) -> str:
        """What it was, without a word of it: ``JSON, 1,204 characters, 2 other parts: image``."""
        counts = [f"{len(self.media)} other parts: {', '.join(dict.fromkeys(self.kinds))}"] if self.media else []
        shape = "binary data" if self.binary else "JSON" if json_container(self.text) is not None else "text"
        size = [f"{shape}, {len(self.text):,} characters"] if self.text else []
        return ", ".join([*size, *counts])


def read(value: Any) -> Reading:
    """`value`, what a message holds (a text, content blocks, or what a text is made of), as the model will read it."""
    if isinstance(value, str):
        return Reading(value, binary=_is_binary(value))
    if isinstance(value, bytes | bytearray):
        return Reading(str(value), binary=_is_binary(bytes(value).decode("utf-8", "replace")))
    if isinstance(value, Sequence) and value and all(map(_is_block, value)):
        media = tuple(bare(one) for one in value if is_media(one))
        text = content_text(ToolMessage(list(value), tool_call_id=""))
        return Reading(text, media, binary=_is_binary(text))
    return Reading(_stringified(value))


def read_returned(value: Any) -> Reading:
    """`value` as a tool returned it, before it is put into a message: a list stays a list there only when all of it are
    blocks that LangChain knows. Of any other it makes JSON, which the model reads whole, media and all."""
    reading = read(value)
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        return reading
    if isinstance(value, list) and all(isinstance(one, dict) and _is_known(one) for one in value):
        return reading
    return Reading(_stringified(value), reading.media if all(map(_is_known, value)) else ())


def texts_in(value: Any) -> Iterator[str]:
    """Every string in plain data, keys of mappings too."""
    match value:
        case str():
            yield value
        case dict():
            for key, part in value.items():
                yield from texts_in(key)
                yield from texts_in(part)
        case list() | tuple() | set() | frozenset():
            for part in value:
                yield from texts_in(part)


def _is_block(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("type"), str))


def _is_known(part: Any) -> bool:
    """Whether `part` may stand in a list that some versions of LangChain keep, or some of its ways to run a tool."""
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in TOOL_MESSAGE_BLOCK_TYPES)


def _is_binary(text: str) -> bool:
    odd = sum(1 for character in text if character == "\ufffd" or (character < " " and character not in "\t\n\r\f\x1b"))
    return odd > _BINARY_SHARE * len(text)


def _stringified(value: Any) -> str:
    """As LangChain writes a tool's value into a message."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
