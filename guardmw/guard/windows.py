"""A text longer than the guard's context, in windows that overlap. Sans-IO.

Windows begin at fixed places, so a growing text keeps its windows and the server its cache; a later check of a stream
reads those windows only that hold something new. How many tokens a character takes differs from place to place, and
whoever writes a text can make it differ: nothing is concluded from one window for another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from guardmw.types import Check, Message

__all__ = ["MARGIN_TOKENS", "Fit", "bare", "windows_of"]

MARGIN_TOKENS = 48
"""Left free beside the prompt: the answer, and what a tokenizer makes of the seams."""
CHARS_PER_TOKEN = 3.0
"""Prose and code have more. A window of text that has fewer is refused, and cut into smaller ones."""
LONGEST_TOKEN_CHARS = 16
"""No text has more characters per token, but for one of blanks."""
CONTEXT_SHARE = 0.25
"""Most of the room that the conversation may take from the text under review."""
OVERLAP_SHARE = 0.125
MIN_CHARS = 32


@dataclass(frozen=True, slots=True)
class Fit:
    """How much text a guard's context holds: `limit_tokens` in all, of which the policy and the questions take
    `base_tokens`; a token of text is taken to be `chars_per_token` characters long."""

    limit_tokens: int
    base_tokens: int
    chars_per_token: float = CHARS_PER_TOKEN

    @property
    def room_chars(self) -> int:
        room = self.limit_tokens - self.base_tokens - MARGIN_TOKENS
        return max(0, int(room * self.chars_per_token))

    @property
    def too_small(self) -> bool:
        return self.room_chars < 2 * MIN_CHARS

    def surely_shorter_than(self, text: str) -> bool:
        return len(text) > (self.limit_tokens - self.base_tokens) * LONGEST_TOKEN_CHARS

    def tighter(self) -> Fit:
        return replace(self, chars_per_token=self.chars_per_token * 0.6)


def windows_of(check: Check, fit: Fit) -> list[Check]:
    """`check` in pieces that `fit`; of a stream's later check those that hold text beyond its ``offset_chars``, at
    least the last one.

    Each keeps the newest part of the conversation; earlier calls are left out. Together they hold every character that
    no earlier check of the stream covered, and neighbours share an eighth of a window. A piece can be cut again.
    """
    conversation = _newest(check.conversation, int(fit.room_chars * CONTEXT_SHARE))
    size = max(MIN_CHARS, fit.room_chars - sum(len(message.content) for message in conversation))
    overlap = int(size * OVERLAP_SHARE)
    starts = range(0, max(1, len(check.content) - overlap), size - overlap)
    new = [start for start in starts if start + size > check.offset_chars] or starts[-1:]
    return [
        replace(
            bare(check), content=check.content[start : start + size], conversation=conversation,
            offset_chars=max(0, check.offset_chars - start),
        )
        for start in new
    ]  # fmt: skip


def bare(check: Check) -> Check:
    """`check` without its text and all that may be left out around it; of a call's own check the call stays."""
    calls = check.calls[-1:] if check.surface == "tool_call" else ()
    return replace(check, content="", conversation=(), calls=calls)


def _newest(conversation: tuple[Message, ...], chars: int) -> tuple[Message, ...]:
    kept: list[Message] = []
    for message in reversed(conversation):
        if chars <= 0:
            break
        kept.append(replace(message, content=message.content[-chars:]))
        chars -= len(message.content)
    return tuple(reversed(kept))
