"""A text longer than the guard's context, in windows that overlap. Sans-IO.

Windows begin at fixed places, so a growing text keeps its windows and the server its cache; a later check of a stream
reads those windows only that hold something new.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from guardmw.types import Check, Message

__all__ = ["MARGIN_TOKENS", "Fit", "windows_of"]

MARGIN_TOKENS = 48
"""Left free beside the prompt: the answer, and what a tokenizer makes of the seams."""
CAUTION = 0.85
CONTEXT_SHARE = 0.25
"""Most of the room that the conversation may take from the text under review."""
OVERLAP_SHARE = 0.125
MIN_CHARS = 32


@dataclass(frozen=True, slots=True)
class Fit:
    """How much text a guard's context holds: `limit_tokens` in all, of which the policy and the questions take
    `base_tokens`; a token of text is `chars_per_token` characters long."""

    limit_tokens: int
    base_tokens: int
    chars_per_token: float

    @property
    def room_chars(self) -> int:
        room = self.limit_tokens - self.base_tokens - MARGIN_TOKENS
        return max(0, int(room * self.chars_per_token * CAUTION))

    @property
    def too_small(self) -> bool:
        return self.room_chars < 2 * MIN_CHARS

    def holds(self, check: Check) -> bool:
        said = sum(len(message.content) for message in check.conversation)
        called = sum(len(call.name) + len(call.arguments) for call in check.calls)
        return len(check.content) + said + called <= self.room_chars

    def tighter(self) -> Fit:
        return replace(self, chars_per_token=self.chars_per_token * 0.6)


def windows_of(check: Check, fit: Fit) -> list[Check]:
    """`check` in pieces that `fit`; of a stream's later check those that hold text beyond its ``offset_chars``.

    Each keeps the newest part of the conversation; earlier calls are left out. Together they hold every character that
    no earlier check of the stream covered, and neighbours share an eighth of a window.
    """
    conversation = _newest(check.conversation, int(fit.room_chars * CONTEXT_SHARE))
    size = max(MIN_CHARS, fit.room_chars - sum(len(message.content) for message in conversation))
    calls = check.calls[-1:] if check.surface == "tool_call" else ()
    overlap = int(size * OVERLAP_SHARE)
    starts = range(0, max(1, len(check.content) - overlap), size - overlap)
    return [
        replace(check, content=check.content[start : start + size], conversation=conversation, calls=calls)
        for start in starts
        if start + size > check.offset_chars
    ]


def _newest(conversation: tuple[Message, ...], chars: int) -> tuple[Message, ...]:
    kept: list[Message] = []
    for message in reversed(conversation):
        if chars <= 0:
            break
        kept.append(replace(message, content=message.content[-chars:]))
        chars -= len(message.content)
    return tuple(reversed(kept))
