"""What of a text the embedded guard reads: windows of word pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardmw.guard.encoder import Window
from guardmw.guard.encodings import LOOK_BACK, hidden_texts
from guardmw.guard.lookalikes import as_read
from guardmw.guard.spellings import spelt_out
from guardmw.types import Check

if TYPE_CHECKING:
    from guardmw.guard.encoder import Model

__all__ = ["check_windows", "cut", "text_windows"]

CHARS_PER_PIECE = 8
"""How much text is enough to fill a window of word pieces when looking back: twice what English needs."""
WORD_CHARS = 32
"""How far back a word that a check's offset cuts through may begin."""


def check_windows(check: Check, model: Model) -> list[Window]:
    """What of `check` is read, each window with the end of what it answers; none when the text has no piece."""
    size = model.manifest.windows.context
    context = model.words.ids(as_read(_answered(check)[-size * CHARS_PER_PIECE :]))[-size:] if size else []
    room = model.manifest.windows.room_on(check.surface)
    return [Window(pieces, context) for pieces in text_windows(check.content, model, room, check.offset_chars)]


def text_windows(text: str, model: Model, room: int, offset: int = 0) -> list[list[int]]:
    """The windows of at most `room` pieces of `text` behind `offset`, and of what it says there in codes and odd
    spellings."""
    coded = text[max(0, offset - LOOK_BACK) :]
    hidden = hidden_texts(coded) + spelt_out(coded, model.words)
    parts = [(text, offset), *((each, 0) for each in hidden)]
    return [pieces for part, start in parts for pieces in _new_windows(part, start, model, room)]


def _new_windows(text: str, offset: int, model: Model, size: int) -> list[list[int]]:
    """The windows of `text` behind `offset`, and of what comes before it as much as a stream's window has room for."""
    windows = model.manifest.windows
    if offset <= 0:
        return cut(model.words.ids(as_read(text)), size, windows.overlap)
    start = _word_start(text, offset)
    new = model.words.ids(as_read(text[start:]))
    room = max(windows.look_back, windows.stream_size - 2 - len(new))
    earlier = model.words.ids(as_read(text[max(0, start - room * CHARS_PER_PIECE) : start]))
    return cut(earlier[-room:] + new, size, windows.overlap)


def _answered(check: Check) -> str:
    """The user's message that the text answers or serves; nothing for what the user says."""
    if check.surface == "input":
        return ""
    return next((message.content for message in reversed(check.conversation) if message.role == "user"), "")


def _word_start(text: str, offset: int) -> int:
    """Where the word that `offset` cuts through begins: its first half alone was judged as another word."""
    before = text[max(0, offset - WORD_CHARS) : offset]
    spaces = [place for place, char in enumerate(before, 1) if char.isspace()]
    if spaces:
        return offset - len(before) + spaces[-1]
    return 0 if offset <= WORD_CHARS else offset


def cut(ids: list[int], size: int, overlap: int) -> list[list[int]]:
    """`ids` in windows of at most `size` that overlap by `overlap`; together they hold every id."""
    last = max(0, len(ids) - overlap)
    return [ids[start : start + size] for start in range(0, last or len(ids), size - overlap)]
