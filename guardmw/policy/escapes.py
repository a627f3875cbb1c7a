"""Detectors for texts in which characters are escaped, as in JSON: what is found is found in what the escapes mean.

In JSON, the line break before a number is a backslash and an ``n``; whoever reads the value sees the start of a line.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from guardmw.policy.detectors import Match, detectors_for
from guardmw.policy.schema import Policy
from guardmw.types import Redaction, Surface, merge_redactions

MAX_DEPTH: Final = 3
"""JSON in a text of JSON in a text of JSON: escapes of escapes are read so often."""

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\"'\\/bfnrt])"
)
_CONTROLS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class _Reading:
    """A text as it is read; its i-th character begins at ``places[i]`` of the original, which the last one ends."""

    text: str
    places: list[int]

    def whole(self, start: int, end: int) -> tuple[int, int]:
        """The least part of the original that holds ``[start, end)`` of it and cuts no escape."""
        places = self.places
        return places[bisect_right(places, start) - 1], places[bisect_left(places, end)]


def detected(policy: Policy, surface: Surface, text: str, *, escaped: bool | None = None) -> tuple[Match, ...]:
    """What the detectors of `policy` find in `text`, in its own positions, which cut no escape.

    `escaped` says that escapes count only for what they mean (None: where `text` is a call or JSON). Elsewhere the text
    is read as it stands, too: nobody knows what a backslash means there.
    """
    detectors = detectors_for(policy, surface)
    if "\\" not in text or not detectors:
        return detectors.scan(text).matches
    if escaped is None:
        escaped = surface == "tool_call" or json_container(text) is not None
    readings = list(_readings(text))
    deepest = readings[-1]
    found: dict[tuple[str, str, int, int], Match] = {}
    for reading in readings[1:] if escaped and len(readings) > 1 else readings:
        for match in detectors.scan(reading.text).matches:
            start, end = deepest.whole(reading.places[match.start], reading.places[match.end])
            found[match.kind, match.entity, start, end] = replace(match, start=start, end=end)
    return tuple(sorted(found.values(), key=lambda match: match.start))


def json_container(text: str) -> dict[str, Any] | list[Any] | None:
    """`text` as JSON object or list; None when it is neither."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def whole_escapes(text: str, redactions: Sequence[Redaction]) -> tuple[Redaction, ...]:
    """`redactions`, in `text` whose characters are escaped, so that none cuts an escape."""
    if "\\" not in text or not redactions:
        return tuple(redactions)
    deepest = list(_readings(text))[-1]
    return merge_redactions([replace(one, span=deepest.whole(*one.span)) for one in redactions])


def _readings(text: str) -> Iterator[_Reading]:
    """`text` as it stands, then with its escapes read once, twice and so on, as long as there are any."""
    reading = _Reading(text, [*range(len(text) + 1)])
    yield reading
    for depth in range(MAX_DEPTH):
        if not _ESCAPE.search(reading.text):
            return
        reading = _unescaped(reading, raw=depth == 0)
        yield reading


def _unescaped(reading: _Reading, *, raw: bool) -> _Reading:
    text, places, end = reading.text, reading.places, 0
    parts: list[str] = []
    kept: list[int] = []
    for match in _ESCAPE.finditer(text):
        if not raw and match[0] == '\\"' and places[match.end()] - places[match.end() - 1] == 1:
            continue  # the quote ends a string of the document, whose last character is a backslash
        meant = _meant(match[0])
        parts += [text[end : match.start()], meant]
        kept += places[end : match.start() + 1]
        end = match.end()
    return _Reading("".join([*parts, text[end:]]), kept + places[end:])


def _meant(escape: str) -> str:
    match escape[1]:
        case "u":
            return str(json.loads(f'"{escape}"'))
        case "x":
            return chr(int(escape[2:], 16))
        case code:
            return _CONTROLS.get(code, code)
