"""Text hidden in base64 or hexadecimal digits, read as what it says: models read it as easily as plain text."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Hidden", "hidden_texts"]

_RUNS = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:\r?\n[A-Za-z0-9+/_-]{16,})*(?:\r?\n[A-Za-z0-9+/_-]{1,15}(?==|\r?\n|$))?")
"""What may be base64 (RFC 4648, either alphabet) or hexadecimal digits, over several lines if need be."""
_ONE_ALPHABET = str.maketrans("-_", "+/", "\r\n")
LOOK_BACK = 8192
"""How many characters before the offset a run may begin."""
DEPTH = 2
"""How often a text may be encoded."""
SAMPLE, READABLE, FEWEST_LETTERS = 1000, 0.9, 8
"""Of a text's first characters so many are looked at, such a share must be printable, and so many must be letters:
bytes that are no text, and ordinary words taken for base64, are nearly never that."""


class Hidden(NamedTuple):
    """A decoded text, of which the first `seen` characters come from before the offset."""

    text: str
    seen: int


def hidden_texts(text: str, offset: int = 0) -> list[Hidden]:
    """What stands in `text` in base64 or in hexadecimal digits and reaches beyond `offset` (characters), be it encoded
    once or twice."""
    return list(_hidden(text, offset, DEPTH))


def _hidden(text: str, offset: int, depth: int) -> Iterator[Hidden]:
    for run in _RUNS.finditer(text, max(0, offset - LOOK_BACK)):
        if run.end() > offset and (hidden := _read(run, offset)):
            yield hidden
            if depth > 1:
                yield from _hidden(*hidden, depth - 1)


def _read(run: re.Match[str], offset: int) -> Hidden | None:
    code = run.group().translate(_ONE_ALPHABET)
    for decode, starts in ((_hexadecimal, 2), (_base64, 4)):
        for start in range(starts):  # what stands before the code may look like a part of it
            text = decode(code[start:])
            if text and _readable(text[:SAMPLE]):
                return Hidden(text, int(len(text) * max(0, offset - run.start()) / len(run.group())))
    return None


def _hexadecimal(digits: str) -> str | None:
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2]).decode(errors="replace")
    except ValueError:
        return None


def _base64(letters: str) -> str:
    whole = letters[:-1] if len(letters) % 4 == 1 else letters
    return base64.b64decode(whole + "=" * (-len(whole) % 4)).decode(errors="replace")


def _readable(text: str) -> bool:
    printable = sum(char.isprintable() or char.isspace() for char in text) - text.count("\ufffd")
    return sum(map(str.isalpha, text)) >= FEWEST_LETTERS and printable >= READABLE * len(text)
