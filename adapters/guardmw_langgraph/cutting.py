"""Cuts the sentences that offend out of a text and keeps the others.

Halves are judged, and halves of those that offend, down to single sentences. Where a text offends and neither half
does (the sense lies between them), both go. Of JSON the texts are cut and its form is kept.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guardmw.policy.escapes import json_container
from guardmw_langgraph.windowed import WINDOW_CHARS

MAX_CHECKS = 96
"""After so many checks the search is given up, and nothing is kept."""

_SENTENCE = re.compile(
    r"(?:[^.!?…\n\u3002\uff01\uff1f]|[.!?…](?!\s|$))*(?:[.!?…]+(?=\s|$)|[\n\u3002\uff01\uff1f]|$)\s*"
)
_SHORT = 12
"""A piece with fewer characters (``e.g. ``) belongs to the next one."""

Offends = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left: `text` with `marker` where something was; `removed` of `sentences` are gone, that is `chars`."""

    text: str
    removed: int
    sentences: int
    chars: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence: where in which of the texts of a document it stands."""

    leaf: int
    start: int
    end: int


class _TooMany(Exception):
    pass


async def without_offence(text: str, offends: Offends, marker: str) -> Kept | None:
    """`text`, which offends, without the sentences that do; None when nothing worth keeping is found to be clean.

    What is returned has not been judged as a whole: the caller does that. JSON that is nested too deep for Python to
    take apart is not cut.
    """
    try:
        return await _cut(_Document(text), offends, marker)
    except (_TooMany, RecursionError):
        return None


async def _cut(document: _Document, offends: Offends, marker: str) -> Kept | None:
    search = _Search(document, offends)
    bad = await search.among(list(_groups(document.pieces)))
    if not bad or len(bad) == len(document.pieces):
        return None
    chars = sum(piece.end - piece.start for piece in bad)
    return Kept(document.without(bad, marker), len(bad), len(document.pieces), chars)


class _Document:
    """A text as its leaves (itself, or the texts in it when it is JSON) and their sentences."""

    def __init__(self, text: str) -> None:
        self._data = json_container(text)
        self.leaves = [text] if self._data is None else list(_leaves(self._data))
        self.pieces = [
            _Piece(place, *span) for place, leaf in enumerate(self.leaves) for span in sentences(leaf) if leaf.strip()
        ]

    def text_of(self, pieces: Sequence[_Piece]) -> str:
        parts: list[str] = []
        for before, piece in zip([None, *pieces], pieces, strict=False):
            parts.append("\n" if before is not None and before.leaf != piece.leaf else "")
            parts.append(self.leaves[piece.leaf][piece.start : piece.end])
        return "".join(parts)

    def without(self, bad: set[_Piece], marker: str) -> str:
        kept = ["" if leaf.strip() else leaf for leaf in self.leaves]
        gone = [False] * len(self.leaves)
        for piece in self.pieces:
            if piece not in bad:
                kept[piece.leaf] += self.leaves[piece.leaf][piece.start : piece.end]
            elif not gone[piece.leaf]:
                kept[piece.leaf] += f"{marker} "
            gone[piece.leaf] = piece in bad
        kept = [one.rstrip(" ") if one.endswith(f"{marker} ") else one for one in kept]
        return kept[0] if self._data is None else json.dumps(_rebuilt(self._data, iter(kept)), ensure_ascii=False)


class _Search:
    def __init__(self, document: _Document, offends: Offends) -> None:
        self._document, self._offends = document, offends
        self._left = MAX_CHECKS

    async def among(self, groups: Sequence[Sequence[_Piece]]) -> set[_Piece]:
        """The pieces that offend; a single group is known to."""
        known = len(groups) == 1
        found = await asyncio.gather(*(self._within(group, known=known) for group in groups))
        return set().union(*found)

    async def _within(self, pieces: Sequence[_Piece], *, known: bool = False) -> set[_Piece]:
        if not known and not await self._judged(pieces):
            return set()
        if len(pieces) == 1:
            return set(pieces)
        half = len(pieces) // 2
        found = await asyncio.gather(self._within(pieces[:half]), self._within(pieces[half:]))
        return set().union(*found) or set(pieces)

    async def _judged(self, pieces: Sequence[_Piece]) -> bool:
        self._left -= 1
        if self._left < 0:
            raise _TooMany
        return await self._offends(self._document.text_of(pieces))


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """The spans of the sentences and lines of `text`, which together are all of it."""
    start = 0
    for match in _SENTENCE.finditer(text):
        if match.end() - start >= _SHORT:
            yield start, match.end()
            start = match.end()
    if start < len(text):
        yield start, len(text)


def _groups(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """`pieces` in rows that fit a window."""
    row: list[_Piece] = []
    size = 0
    for piece in pieces:
        if row and size + piece.end - piece.start > WINDOW_CHARS:
            yield row
            row, size = [], 0
        row.append(piece)
        size += piece.end - piece.start
    if row:
        yield row


def _leaves(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _leaves(part)
        case list():
            for part in value:
                yield from _leaves(part)


def _rebuilt(value: Any, leaves: Iterator[str]) -> Any:
    """`value` with its texts taken from `leaves`, in the order of `_leaves`."""
    match value:
        case str():
            return next(leaves)
        case dict():
            return {key: _rebuilt(part, leaves) for key, part in value.items()}
        case list():
            return [_rebuilt(part, leaves) for part in value]
        case _:
            return value
