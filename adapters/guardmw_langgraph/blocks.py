"""Content blocks of a tool's message: which of their parts a model reads as text, and what can't be judged at all."""

from __future__ import annotations

import json
from typing import Any, Final

from guardmw_langgraph.slots import Fields

MEDIA: Final = {
    "audio": "audio", "document": "file", "file": "file", "image": "image", "image_url": "image",
    "input_audio": "audio", "input_file": "file", "input_image": "image", "media": "file", "video": "video",
}  # fmt: skip
"""Types of content blocks that hold no text anybody judges, and what to call them."""

_CARRYING: Final = frozenset(
    {"base64", "cache_control", "data", "detail", "file_data", "file_id", "file_url", "format", "id", "image_url",
     "index", "media_type", "mime_type", "source_type", "type", "url"}
)  # fmt: skip
"""Keys of such a block that hold the medium, or say how to get and to read it; all others may hold text."""

_PLAIN: Final = frozenset({"cache_control", "id", "index", "text", "type"})


def is_media(block: Any) -> bool:
    """Whether `block` is a medium; a document whose source is text is none."""
    if not isinstance(block, dict) or str(block.get("type")) not in MEDIA:
        return False
    source = block.get("source")
    return not (isinstance(source, dict) and source.get("type") in ("text", "content"))


def block_text(block: Any) -> str:
    """All that can be read in `block`: its text, what is said beside a medium, and all of any other as JSON."""
    if not isinstance(block, dict):
        return str(block)
    if is_media(block):
        said = _parts(block, carrying=False)
        return _json(said) if said else ""
    if block.get("type") != "text" or not isinstance(block.get("text"), str):
        return _json(block)
    beside = {key: value for key, value in block.items() if value and key not in _PLAIN}
    return "\n".join(part for part in (block["text"], _json(beside) if beside else "") if part)


def bare(block: Fields) -> Fields:
    """The medium alone, without what is said beside it."""
    return _parts(block, carrying=True)


def _parts(block: Fields, *, carrying: bool) -> Fields:
    """The part of `block`, however deep, under keys that carry the medium, or under all others."""
    found: Fields = {}
    for key, value in block.items():
        if isinstance(value, dict):
            value = _parts(value, carrying=carrying)
            if value:
                found[key] = value
        elif value not in (None, "") and (key in _CARRYING) == carrying:
            found[key] = value
    return found


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(value)
