"""Which detectors a text calls for, and from where on it must wait; ordinary prose costs next to nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from guardmw.policy.detector import Detector
from guardmw.policy.partial import SPACES, Alphabet

_ALPHABET_LIMIT = 64
"""Detectors that share a tail are looked for where the text ends in their common alphabet; those made of more
characters than this are looked for by themselves."""

_RARE = "_0123456789/-"


@dataclass(frozen=True, slots=True)
class _Tail:
    """What the end of a text looks like while a match may begin or grow there; no pattern: like anything."""

    pattern: re.Pattern[str] | None
    alphabet: str | None
    spaced: bool
    wait_chars: int

    def begin(self, text: str, position: int, word: int) -> int:
        """Where the first such match could begin."""
        begin = max(position, len(text) - self.wait_chars, position if self.spaced else word)
        if self.alphabet is not None and begin < len(text):
            return begin + len(text[begin:].rstrip(self.alphabet))
        return begin

    def matches(self, text: str, begin: int) -> bool:
        return self.pattern is None or self.pattern.match(text, begin) is not None

    def search(self, text: str, begin: int) -> int:
        """Where the first such match does begin; the end of the text if there is none."""
        if self.pattern is None or begin >= len(text):
            return begin
        found = self.pattern.search(text, begin)
        return found.start() if found else len(text)


class Sieve:
    """Of the given detectors, those to run on a text, and the part of the text that they must wait for."""

    def __init__(self, detectors: Sequence[Detector], *, normalized: bool = True) -> None:
        self._detectors = detectors
        self._always = [i for i, detector in enumerate(detectors) if not detector.leads and detector.gate is None]
        self._gated: dict[re.Pattern[str], list[int]] = {}
        self._led: dict[str, dict[str, list[int]]] = {}
        for i, detector in enumerate(detectors):
            if detector.gate is not None:
                self._gated.setdefault(detector.gate, []).append(i)
            for lead in detector.leads:
                self._led.setdefault(_rarest(lead), {}).setdefault(lead, []).append(i)
        leads = [lead for detector in detectors for lead in detector.leads]
        self._beginnings = frozenset(lead[:size] for lead in leads for size in range(1, len(lead)))
        self._longest_beginning = max(map(len, self._beginnings), default=0)
        self._tails = {i: _tail([detector], None) for i, detector in enumerate(detectors) if detector.leads}
        self._shared = _shared([detector for detector in detectors if not detector.leads], normalized)

    def active(self, text: str, folded: str, position: int) -> list[int]:
        """The detectors (by index, in order) that could find something from `position` on."""
        active = set(self._always)
        for gate, indices in self._gated.items():
            if gate.search(text, position):
                active.update(indices)
        for rare, leads in self._led.items():
            if rare in folded:
                for lead, indices in leads.items():
                    if folded.find(lead, position) >= 0:
                        active.update(indices)
        return sorted(active)

    def hold(self, text: str, folded: str, position: int, active: Iterable[int]) -> int:
        """The first place from which on more text could change what is found.

        A match of a detector with leads begins with one of them, or with the beginning of one at the end of the text;
        the other detectors share tails.
        """
        hold = min([len(text), *self._unfinished_leads(folded, position)])
        word = max(text.rfind(space, position) for space in SPACES) + 1
        for i in active:
            if self._detectors[i].leads:
                hold = min(hold, self._led_hold(i, text, folded, position, word))
        for tail in self._shared:
            begin = tail.begin(text, position, word)
            if begin < hold:
                hold = min(hold, tail.search(text, begin))
        return hold

    def _led_hold(self, i: int, text: str, folded: str, position: int, word: int) -> int:
        """Where the first match of a detector with leads begins that could still change."""
        detector, tail = self._detectors[i], self._tails[i]
        start = detector.first_start(text, folded, tail.begin(text, position, word))
        while start is not None and not tail.matches(text, start):
            start = detector.first_start(text, folded, start + 1)
        return len(text) if start is None else start

    def _unfinished_leads(self, folded: str, position: int) -> Iterator[int]:
        length = len(folded)
        for begin in range(max(position, length - self._longest_beginning), length):
            if folded[begin:] in self._beginnings:
                yield begin


def _rarest(lead: str) -> str:
    """The character of `lead` that prose has least of, if it has one that prose does without."""
    return next((character for character in _RARE if character in lead), "")


def _shared(detectors: Iterable[Detector], normalized: bool) -> list[_Tail]:
    """One tail for all detectors of single words, one for those of digits and the like, one for each other one."""
    words, digits, others = [], [], []
    for detector in detectors:
        alphabet = detector.partial.alphabet if detector.partial and normalized else None
        if detector.partial and not detector.partial.spaced:
            words.append(detector)
        elif alphabet is not None and len(alphabet) <= _ALPHABET_LIMIT:
            digits.append(detector)
        else:
            others.append([detector])
    alphabet = frozenset().union(*(detector.partial.alphabet or () for detector in digits if detector.partial))
    shared = [_tail(words, None)] if words else []
    shared += [_tail(digits, alphabet)] if digits else []
    return shared + [_tail(group, None) for group in others]


def _tail(detectors: Sequence[Detector], alphabet: Alphabet) -> _Tail:
    wait_chars = max(detector.wait_chars for detector in detectors)
    partials = [detector.partial for detector in detectors]
    if None in partials:
        return _Tail(None, None, True, wait_chars)
    pattern = re.compile(f"(?:{'|'.join(partial.tail for partial in partials if partial)})\\Z")
    spaced = any(partial.spaced for partial in partials if partial)
    return _Tail(pattern, "".join(sorted(alphabet)) if alphabet else None, spaced, wait_chars)
