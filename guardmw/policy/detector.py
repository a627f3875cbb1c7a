"""One detector: a pattern, what makes a match valid, and how far a stream must wait for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from guardmw.policy.partial import Partial, Unsupported, analyse

CONTEXT_CHARS = 48
"""How many characters before a match its validator may read."""

MANY_DIGITS = re.compile(r"\d(?:[ .\-/()]{0,4}\d){6}", re.ASCII)
"""A gate for numbers of seven digits and more."""

_LETTER = re.compile("[A-Za-z]")

Span = tuple[int, int]
Validate = Callable[[re.Match[str]], Span | None]


def whole(match: re.Match[str]) -> Span | None:
    """The default validator: the group ``value`` where the pattern has one, otherwise all of the match."""
    group: str | int = "value" if "value" in match.re.groupindex else 0
    return match.span(group) if match.start(group) >= 0 else None


def preceded_by(match: re.Match[str], words: re.Pattern[str]) -> bool:
    """Whether `words` are found in the CONTEXT_CHARS before the match, the only text outside it that validators see."""
    context = match.string[max(0, match.start() - CONTEXT_CHARS) : match.start()]
    return _LETTER.search(context) is not None and words.search(context) is not None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a detector found: `span` is what it is about, ``[begin, span[1])`` what was read to know it."""

    begin: int
    span: Span


@dataclass(frozen=True)
class Detector:
    """Finds one entity.

    A match may begin at any character; whether one does depends on nothing but the CONTEXT_CHARS before it and the
    `max_chars` after it: what is longer is cut there. So what is found never depends on how a text was cut into pieces.

    `leads`: every match begins with one of them (lower case; compared without case); `gate`: every match contains a
    match of it. Both only save time, and a detector has at most one of them.
    """

    entity: str
    pattern: re.Pattern[str]
    validate: Validate = whole
    leads: tuple[str, ...] = ()
    gate: re.Pattern[str] | None = None
    max_chars: int = 512

    @cached_property
    def partial(self) -> Partial | None:
        """The pattern taken apart; None when its beginnings can't be told, so that `max_chars` must be waited for."""
        try:
            return analyse(self.pattern, self.max_chars)
        except Unsupported:
            return None

    @cached_property
    def wait_chars(self) -> int:
        """No match that begins further than this before the end can still change."""
        return min(self.max_chars, self.partial.reach_chars) if self.partial else self.max_chars

    @cached_property
    def back_chars(self) -> int:
        """How many characters before a match matter."""
        return max(CONTEXT_CHARS, self.partial.back_chars if self.partial else self.max_chars)

    @cached_property
    def _search(self) -> Callable[[str, int], re.Match[str] | None]:
        """Finds where to try: at leads in the folded text, otherwise wherever the pattern could match."""
        if self.leads:
            return re.compile("|".join(map(re.escape, self.leads))).search
        if self.partial is None:
            return re.compile("").search
        if self.partial.reach_chars <= self.max_chars:
            return self.pattern.search
        return re.compile(self.partial.loose).search

    def first_start(self, text: str, folded: str, position: int) -> int | None:
        """The first place from `position` on where a match could begin."""
        found = self._search(folded if self.leads else text, position)
        return found.start() if found else None

    def find(self, text: str, folded: str, position: int, stop: int) -> Iterator[Candidate]:
        """The matches that begin in ``[position, stop)``, in order, none overlapping the one before.

        `folded` is `text` in lower case, of the same length.
        """
        while (begin := self.first_start(text, folded, position)) is not None and begin < stop:
            match = self.pattern.match(text, begin, begin + self.max_chars)
            span = self.validate(match) if match else None
            if span is None or span[0] == span[1]:
                position = begin + 1
                continue
            yield Candidate(begin, span)
            position = max(span[1], begin + 1)
