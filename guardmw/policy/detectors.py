"""Deterministic detection of personal data, secrets and patterns of one's own, in texts that may still be growing."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from guardmw.policy.detector import CONTEXT_CHARS, Detector
from guardmw.policy.normalize import INVISIBLE_RUN_CHARS, Normalized, is_plain, normalize
from guardmw.policy.redaction import replacement
from guardmw.policy.schema import DetectorModel, Detectors, PatternDetector, Policy, Style
from guardmw.types import Action, Redaction, Surface, severity

__all__ = ["DetectorSet", "Match", "Scan", "detectors_for", "redactions"]

_LOOK_BACK_CHARS = CONTEXT_CHARS + 1
_LOOK_BACK_UNPLAIN_CHARS = (_LOOK_BACK_CHARS + 1) * (INVISIBLE_RUN_CHARS + 1)
_SPACES = "\n \t\r\x0b\x0c"


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
    order: int


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
    """The detectors of one policy on one surface; immutable, and shared by all streams. Make it with `detectors_for`."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = tuple(entries)
        self._by_hint: dict[str, list[_Entry]] = {}
        self._by_gate: dict[re.Pattern[str] | None, list[_Entry]] = {}
        for entry in self._entries:
            for hint in entry.detector.hints:
                self._by_hint.setdefault(hint, []).append(entry)
            if not entry.detector.hints:
                self._by_gate.setdefault(entry.detector.gate, []).append(entry)
        self._tails = _tails([entry.detector for entry in self._entries])

    def __bool__(self) -> bool:
        """False: there is nothing to detect."""
        return bool(self._entries)

    def scan(self, text: str, start: int = 0, *, final: bool = True) -> Scan:
        """What is detected in `text` from `start` on.

        `start` is 0 or the `settled` of an earlier scan of a beginning of the same text. With `final` False the text
        may still grow: matches are reported up to `settled`, and whatever follows, they stay as they are and no other
        match begins or ends before it. However a text is cut, its scans together report what one scan of it all does.
        """
        if not self._entries:
            return Scan((), len(text))
        offset, window = _window(text, start)
        position = window.position(start - offset)
        hold = len(window.text) if final else self._hold(window.text, position)
        found = [
            _locate(entry, window, candidate.begin, candidate.span)
            for entry in self._active(window.text, position)
            for candidate in entry.detector.find(window.text, position, hold)
        ]
        settled = _uncut(found, window.original(hold))
        kept = _resolved(item for item in found if item.begin < settled and not _allowed(item, text, offset))
        return Scan(tuple(_match(item, offset) for item in kept), offset + settled)

    def _active(self, text: str, position: int) -> list[_Entry]:
        """The detectors that could find something, by their hints and gates."""
        folded = text.lower()
        active = {
            entry.order: entry for hint, entries in self._by_hint.items() if hint in folded for entry in entries
        }
        for gate, entries in self._by_gate.items():
            if gate is None or gate.search(text, position):
                active.update((entry.order, entry) for entry in entries)
        return list(active.values())

    def _hold(self, text: str, position: int) -> int:
        """The first place from which on more text could change what is found."""
        length = len(text)
        word = max(text.rfind(space, position) for space in _SPACES) + 1
        hold = length
        for tail in self._tails:
            begin = max(position, length - tail.wait_chars, 0 if tail.spaced else word)
            if begin >= hold:
                continue
            if tail.pattern is None:
                hold = begin
            elif (found := tail.pattern.search(text, begin)) is not None:
                hold = min(hold, found.start())
        return hold


@dataclass(frozen=True, slots=True)
class _Tail:
    """What the end of a text looks like when a match may still begin or grow there; None: like anything."""

    pattern: re.Pattern[str] | None
    spaced: bool
    wait_chars: int


def _tails(detectors: Iterable[Detector]) -> list[_Tail]:
    groups: dict[tuple[bool, int], list[str]] = {}
    unknown = 0
    for detector in detectors:
        if (partial := detector.partial) is None:
            unknown = max(unknown, detector.wait_chars)
            continue
        wait_chars = 1 << (detector.wait_chars - 1).bit_length()  # few groups: each is one search
        groups.setdefault((partial.spaced, wait_chars), []).append(partial.tail)
    tails = [
        _Tail(re.compile(f"(?:{'|'.join(patterns)})\\Z"), spaced, wait_chars)
        for (spaced, wait_chars), patterns in groups.items()
    ]
    return tails + ([_Tail(None, True, unknown)] if unknown else [])


def _window(text: str, start: int) -> tuple[int, Normalized]:
    """The part of `text` that bears on what begins at `start` or later, and where it begins."""
    offset = max(0, start - _LOOK_BACK_CHARS)
    window = text[offset:] if offset else text
    if is_plain(window):
        return offset, Normalized(window, len(window))
    offset = max(0, start - _LOOK_BACK_UNPLAIN_CHARS)
    return offset, normalize(text[offset:])


def _locate(entry: _Entry, window: Normalized, begin: int, span: tuple[int, int]) -> _Found:
    value = window.text[span[0] : span[1]]
    return _Found(window.original(begin), window.original(span[0]), window.original_end(span[1]), value, entry)


def _uncut(found: Sequence[_Found], settled: int) -> int:
    """The last place not after `settled` that lies inside nothing found."""
    for item in sorted(found, key=lambda item: item.begin, reverse=True):
        if item.begin < settled < item.end:
            settled = item.begin
    return settled


def _allowed(item: _Found, text: str, offset: int) -> bool:
    allow = item.entry.allow
    return bool(allow) and not allow.isdisjoint(
        (item.value.casefold(), text[offset + item.start : offset + item.end].casefold())
    )


def _resolved(found: Iterable[_Found]) -> list[_Found]:
    """Of those that overlap, the more severe, then the longer, then the first in order; by position."""
    kept: list[_Found] = []
    for item in sorted(found, key=lambda item: item.rank):
        place = bisect_left(kept, item.start, key=lambda other: other.start)
        clear_before = place == 0 or kept[place - 1].end <= item.start
        if clear_before and (place == len(kept) or item.end <= kept[place].start):
            insort(kept, item, key=lambda other: other.start)
    return kept


def _match(item: _Found, offset: int) -> Match:
    entry = item.entry
    shown = replacement(entry.detector.entity, item.value, entry.style)
    return Match(entry.detector.entity, entry.kind, offset + item.start, offset + item.end, entry.action, shown)


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

    def add(kind: str, found: Iterable[Detector], model: DetectorModel, action: Action) -> None:
        allow = frozenset(value.casefold() for value in model.allow)
        entries.extend(_Entry(item, kind, action, model.style, allow, len(entries) + i) for i, item in enumerate(found))

    if detectors.pii is not None and surface in detectors.pii.surfaces:
        from guardmw.policy.entities import pii_detectors

        add("pii", pii_detectors(detectors.pii), detectors.pii, detectors.pii.action)
    if detectors.secrets is not None and surface in detectors.secrets.surfaces:
        from guardmw.policy.secrets import secret_detectors

        add("secrets", secret_detectors(detectors.secrets), detectors.secrets, detectors.secrets.action)
    for pattern in detectors.patterns:
        add("patterns", [_custom(pattern)], DetectorModel(), pattern.action)
    return DetectorSet(entries)


def _custom(pattern: PatternDetector) -> Detector:
    return Detector(pattern.id, re.compile(pattern.pattern), max_chars=pattern.max_chars)
