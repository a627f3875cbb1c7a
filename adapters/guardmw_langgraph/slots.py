"""Where in a message a piece of text stood, so that it can be put back there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

from guardmw.stream.items import Released

Fields = dict[str, Any]
"""Arguments for an AIMessageChunk."""


@dataclass(frozen=True)
class Slot:
    """A place for text: plain `content`, the `key` of a content `block`, a part of a block's `summary` list, or an
    entry `key` of additional_kwargs. `block` (and `part`) hold what identifies the block: type, index, id."""

    kind: Literal["content", "block", "summary", "kwarg"]
    key: str = ""
    block: Fields = field(default_factory=dict)
    part: Fields = field(default_factory=dict)
    in_list: bool = False

    def filled(self, text: str) -> Fields:
        match self.kind:
            case "content":
                return {"content": [text] if self.in_list else text}
            case "block":
                return {"content": [{**self.block, self.key: text}]}
            case "summary":
                return {"content": [{**self.block, "summary": [{**self.part, "text": text}]}]}
            case "kwarg":
                return {"content": [] if self.in_list else "", "additional_kwargs": {self.key: text}}
        assert_never(self.kind)


@dataclass(slots=True)
class _Run:
    slot: Slot
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Track:
    """The text of one surface not yet released, and the slots it came from."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._received = 0
        self.altered = False
        """True once released text differed from what came in."""

    def push(self, slot: Slot, text: str) -> None:
        last = self._runs[-1] if self._runs else None
        if last is not None and last.slot == slot:
            last.text += text
        else:
            self._runs.append(_Run(slot, self._received, text))
        self._received += len(text)

    def release(self, released: Released) -> Iterator[tuple[Slot, str]]:
        """`released`, cut where one slot ends and the next begins; redacted text stays whole, in its first slot."""
        pieces = list(self._take(released.end))
        if "".join(text for _, text in pieces) == released.text:
            yield from pieces
            return
        self.altered = True
        if released.text and pieces:
            yield pieces[0][0], released.text

    def _take(self, end: int) -> Iterator[tuple[Slot, str]]:
        while self._runs and self._runs[0].start < end:
            run = self._runs[0]
            if run.end <= end:
                self._runs.popleft()
                yield run.slot, run.text
            else:
                size = end - run.start
                run.start, taken, run.text = end, run.text[:size], run.text[size:]
                yield run.slot, taken
