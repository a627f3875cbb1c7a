"""Rows of the labelled data, read from the folder that the user names; nothing of them is kept here."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attacking.tasks import Call

Row = dict[str, Any]

MAX_RESULT_CHARS = 4000
"""So much of an observation is kept; a few are files of many pages."""

_ACTION = re.compile(r"^ACTION: (\w+) (?=\{)|^Action: (\w+)\"?\nAction Input: (?=\{)", re.MULTILINE)
_OBSERVATION = re.compile(r"\s*\n(?:OBSERVATION|Observation): ?")
_NEXT = re.compile(r"^(?:ACTION|AGENT|USER|Action|Thought|FINAL ANSWER|Final Answer): ?", re.MULTILINE)


@dataclass
class Data:
    """The rows of one split. `missing` collects what was asked for and isn't there."""

    folder: Path | None
    split: str
    missing: list[str] = field(default_factory=list)

    def rows(self, source: str, task: str | None = None, *, split: str | None = None) -> list[Row]:
        """The rows of `source`, all or those of one `task`; none, noted in `missing`, when there is no such file."""
        if self.folder is None:
            return []
        path = self.folder / (split or self.split) / f"{source}.jsonl.gz"
        if not path.is_file():
            self.missing.append(f"{source}: no file {path.name} for the split {split or self.split!r}")
            return []
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows: list[Row] = [json.loads(line) for line in lines]
        return [row for row in rows if task in (None, row["task"])]


def calls_in(trajectory: str) -> list[Call]:
    """The calls that a written trajectory makes, each with what was observed; one that can't be read ends the list."""
    return list(_calls(trajectory))


def _calls(text: str) -> Iterator[Call]:
    decoder, position = json.JSONDecoder(), 0
    while match := _ACTION.search(text, position):
        try:
            args, position = decoder.raw_decode(text, match.end())
        except ValueError:
            return
        observed = _OBSERVATION.match(text, position)
        result = "Done."
        if observed:
            end = _NEXT.search(text, observed.end())
            result = text[observed.end() : end.start() if end else len(text)].strip()[:MAX_RESULT_CHARS] or "Done."
            position = end.start() if end else len(text)
        yield Call(match.group(1) or match.group(2), args, result)


def written_calls(content: str) -> list[Call]:
    """The calls that a row's content writes as JSON, one or a list of them; none when it can't be read."""
    try:
        found = json.loads(content)
    except ValueError:
        return []
    found = found if isinstance(found, list) else [found]
    return [Call(one["name"], one.get("arguments") or {}) for one in found if isinstance(one, dict) and "name" in one]
