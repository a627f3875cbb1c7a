"""Deterministic detection of personal data, secrets and patterns of one's own, in texts that may still be growing."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from guardmw.policy.detector import Candidate, Detector
from guardmw.policy.normalize import INVISIBLE_RUN_CHARS, Normalized, is_plain, normalize
from guardmw.policy.redaction import replacement
from guardmw.policy.schema import DetectorModel, Detectors, PatternDetector, Policy, Style
from guardmw.policy.sieve import Sieve
from guardmw.types import Action, Redaction, Surface, severity

__all__ = ["DetectorSet", "Match", "Scan", "detectors_for", "redactions"]

_ASCII_ONLY = re.compile(r"(?:[^\\]|\\[^uUNx])*", re.ASCII | re.DOTALL)
"""Patterns without a character beyond ASCII read the text as a reader sees it, the others as it is."""


@dataclass(frozen=True, slots=True)
class Match:
    """Something detected. `start` and `end` are characters of the original text, half-open."""

    entity: str
    kind: str
    start: int
    end: int
    action: Action
    replacement: str

    @property
    def source(self) -> str:
        """The source of the finding it becomes: ``detector:pii.email``."""
        return f"detector:{self.kind}.{self.entity}"


@dataclass(frozen=True, slots=True)
class Scan:
    """The matches in ``[start, settled)``, ordered, never overlapping; what follows `settled` is still open."""

    matches: tuple[Match, ...]
    settled: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A detector in its place: whose it is, what the policy says, and its place in the order."""

    detector: Detector
    kind: str
    action: Action
    style: Style
    allow: frozenset[str]
    normalized: bool
    order: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A candidate in characters of the original text."""

    begin: int
    start: int
    end: int
    value: str
    entry: _Entry

    @property
    def rank(self) -> tuple[int, int, int, int]:
        return -severity(self.entry.action), self.start - self.end, self.entry.order, self.start


class DetectorSet:
    """The detectors of one policy on one surface; immutable, shared by all streams. Make it with `detectors_for`."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._readings = [
            _Reading(chosen, normalized)
            for normalized in (True, False)
            if (chosen := [entry for entry in entries if entry.normalized == normalized])
        ]

    def __bool__(self) -> bool:
        """False: there is nothing to detect."""
        return bool(self._readings)

    def scan(self, text: str, start: int = 0, *, final: bool = True) -> Scan:
        """What is detected in `text` from `start` on.

        `start` is 0 or the `settled` of an earlier scan of a beginning of the same text. With `final` False the text
        may still grow: matches are reported up to `settled`, and whatever follows, they stay as they are and no other
        match begins or ends before it. However a text is cut, its scans together report what one scan of it all does.
        """
        readings = [reading.read(text, start, final) for reading in self._readings]
        found = [item for items, _ in readings for item in items]
        settled = _uncut(found, min((hold for _, hold in readings), default=len(text)))
        kept = _resolved(item for item in found if item.begin < settled and not _allowed(item, text))
        return Scan(tuple(_match(item) for item in kept), settled)


class _Reading:
    """The detectors that read a text in one form: as a reader sees it, or as it is."""

    def __init__(self, entries: Sequence[_Entry], normalized: bool) -> None:
        self._entries = entries
        self._normalized = normalized
        self._sieve = Sieve([entry.detector for entry in entries], normalized=normalized)
        self._look_back_chars = 1 + max(entry.detector.back_chars for entry in entries)

    def read(self, text: str, start: int, final: bool) -> tuple[list[_Found], int]:
        """What is found from `start` on, and the first place that is open still."""
        offset, window = self._window(text, start)
        reading, position = window.text, window.position(start - offset)
        folded = reading.lower() if self._normalized else reading
        active = self._sieve.active(reading, folded, position)
        hold = len(reading) if final else self._sieve.hold(reading, folded, position, active)
        found = [
            _locate(self._entries[i], window, offset, candidate)
            for i in active
            for candidate in self._entries[i].detector.find(reading, folded, position, hold)
        ]
        return found, offset + window.original(hold)

    def _window(self, text: str, start: int) -> tuple[int, Normalized]:
        """The part of `text` that bears on what begins at `start` or later, and where it begins."""
        offset = max(0, start - self._look_back_chars)
        window = text[offset:] if offset else text
        if not self._normalized or is_plain(window):
            return offset, Normalized(window, len(window))
        offset = max(0, start - (self._look_back_chars + 1) * (INVISIBLE_RUN_CHARS + 1))
        return offset, normalize(text[offset:])


def _locate(entry: _Entry, window: Normalized, offset: int, candidate: Candidate) -> _Found:
    start, end = candidate.span
    return _Found(
        offset + window.original(candidate.begin),
        offset + window.original(start),
        offset + window.original_end(end),
        window.text[start:end],
        entry,
    )


def _uncut(found: Sequence[_Found], settled: int) -> int:
    """The last place not after `settled` that lies inside nothing found."""
    for item in sorted(found, key=lambda item: item.begin, reverse=True):
        if item.begin < settled < item.end:
            settled = item.begin
    return settled


def _allowed(item: _Found, text: str) -> bool:
    allow = item.entry.allow
    return bool(allow) and not allow.isdisjoint((item.value.casefold(), text[item.start : item.end].casefold()))


def _resolved(found: Iterable[_Found]) -> list[_Found]:
    """Of those that overlap, the more severe, then the longer, then the first in order; by position."""
    kept: list[_Found] = []
    for item in sorted(found, key=lambda item: item.rank):
        place = bisect_left(kept, item.start, key=lambda other: other.start)
        clear_before = place == 0 or kept[place - 1].end <= item.start
        if clear_before and (place == len(kept) or item.end <= kept[place].start):
            insort(kept, item, key=lambda other: other.start)
    return kept


def _match(item: _Found) -> Match:
    entry = item.entry
    shown = replacement(entry.detector.entity, item.value, entry.style)
    return Match(entry.detector.entity, entry.kind, item.start, item.end, entry.action, shown)


def redactions(matches: Iterable[Match]) -> tuple[Redaction, ...]:
    """The redactions for those of `matches` whose action is ``redact``, in the same order."""
    return tuple(
        Redaction((match.start, match.end), match.replacement) for match in matches if match.action == "redact"
    )


def detectors_for(policy: Policy, surface: Surface) -> DetectorSet:
    """The detectors that `policy` sets on `surface`; the same object for equal settings."""
    return _compiled(policy.detectors, surface)


@lru_cache(maxsize=256)
def _compiled(detectors: Detectors, surface: Surface) -> DetectorSet:
    entries: list[_Entry] = []
    pii, secrets = detectors.pii, detectors.secrets
    if pii is not None and surface in pii.surfaces:
        from guardmw.policy.entities import pii_detectors

        entries += _entries("pii", pii_detectors(pii), pii, pii.action)
    if secrets is not None and surface in secrets.surfaces:
        from guardmw.policy.secrets import secret_detectors

        entries += _entries("secrets", secret_detectors(secrets), secrets, secrets.action)
    for pattern in detectors.patterns:
        normalized = pattern.pattern.isascii() and _ASCII_ONLY.fullmatch(pattern.pattern) is not None
        entries += _entries("patterns", [_custom(pattern)], DetectorModel(), pattern.action, normalized)
    return DetectorSet([replace(entry, order=order) for order, entry in enumerate(entries)])


def _entries(
    kind: str, found: Iterable[Detector], model: DetectorModel, action: Action, normalized: bool = True
) -> list[_Entry]:
    allow = frozenset(value.casefold() for value in model.allow)
    return [_Entry(detector, kind, action, model.style, allow, normalized) for detector in found]


def _custom(pattern: PatternDetector) -> Detector:
    return Detector(pattern.id, re.compile(pattern.pattern), max_chars=pattern.max_chars)
