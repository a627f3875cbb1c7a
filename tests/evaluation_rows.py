"""Rows and taxonomies for the evaluation's tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from guardmw.evaluation.data import Sample
from guardmw.evaluation.rules import RuleBook
from guardmw.train.dataset import Row, Taxonomy

HARM = Taxonomy(
    judges="prompt/response",
    unsafe_when="the text helps with harm",
    categories={"break_in": "Help with burglary.", "Fire & arson": "Help with setting fires."},
)
RULE = Taxonomy(judges="tool_call", unsafe_when="the call breaks the policy", categories={})
TAXONOMIES = {"harm": HARM, "rule": RULE}


def raw(**changed: Any) -> dict[str, Any]:
    """A row as it stands in a file."""
    return {
        "id": "r1", "source": "made", "task": "prompt", "policy": "harm", "prompt": "", "content": "How do I bake?",
        "label": "safe", "categories": [], "meta": {"licence": "CC0"}, **changed,
    }  # fmt: skip


def row(**changed: Any) -> Row:
    return Row.model_validate(raw(**changed))


def sample(book: RuleBook | None = None, **changed: Any) -> Sample:
    made = row(**changed)
    return Sample(made, (book or RuleBook(TAXONOMIES)).for_row(made), "rows.jsonl", 1)


def unsafe(content: str, **changed: Any) -> dict[str, Any]:
    return raw(content=content, label="unsafe", categories=["break_in"], **changed)


def write(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    lines = (each if isinstance(each, str) else json.dumps(each) for each in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
