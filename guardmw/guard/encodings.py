"""Text hidden in base64 or hexadecimal digits, read as what it says: models read it as easily as plain text.

Nothing tells where a code begins or which letters before it are no part of it, so everything that can be decoded is, at
every alignment, and what is readable in the bytes is kept, as `strings` does it. Bytes that are no text hardly ever
hold twelve printable characters in a row.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from guardmw.guard.lookalikes import visible

__all__ = ["LOOK_BACK", "hidden_texts"]

LOOK_BACK = 320
"""So many characters before what is new in a stream make its codes whole again, and say what they continue."""
DEPTH = 2
"""How often a text may be encoded."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_-](?:[\s>]*[A-Za-z0-9+/_-]){15,}")
"""What may be base64 (RFC 4648, either alphabet), in lines or groups if need be; quoted mails put a > before lines."""
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f](?:[\s:>]*[0-9A-Fa-f]){23,}")
_WORDS = re.compile(r"[A-Za-z]{8}|[A-Za-z]{2,}(?:[^A-Za-z]{1,3}[A-Za-z]{2,}){2}")
"""A long word, or three in a row."""
_GAPS = re.compile(r"[\s:>]+")
_ONE_ALPHABET = str.maketrans("-_", "+/")
_READABLE = re.compile("[^\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]{12,}")


def hidden_texts(text: str) -> list[str]:
    """What stands in `text` in base64 or in hexadecimal digits, encoded once, and what is encoded twice: at most one
    text each, with a space between what is found in different places."""
    found: list[str] = []
    for _ in range(DEPTH):
        text = " ".join(_decoded(visible(text)))
        if not text:
            break
        found.append(text)
    return found


def _decoded(text: str) -> Iterator[str]:
    for run in _HEXADECIMAL.finditer(text):
        digits = _GAPS.sub("", run.group())
        for start in range(2):
            yield from _readable(bytes.fromhex(digits[start : len(digits) - (len(digits) - start) % 2]))
    for run in _BASE64.finditer(text):
        letters = _GAPS.sub("", run.group()).translate(_ONE_ALPHABET)
        for start in range(4):
            whole = letters[start : len(letters) - ((len(letters) - start) % 4 == 1)]
            yield from _readable(base64.b64decode(whole + "=" * (-len(whole) % 4)))


def _readable(content: bytes) -> Iterator[str]:
    """The stretches of text in `content`, in UTF-8 or, where that is letters and zeros in turn, in UTF-16."""
    for stretch in _READABLE.findall(content.replace(b"\0", b"").decode(errors="replace")):
        if _WORDS.search(stretch):
            yield stretch
