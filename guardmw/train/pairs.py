"""Which texts fall under which categories: from rows with one taxonomy's labels to pairs under everybody's wording.

A row says only what it is in its own taxonomy. `themes.yaml` says what the taxonomies have in common, so a row counts
for or against categories of other taxonomies and policies too, and for neither where its label can't tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from guardmw.train.calls import NO_ARGUMENTS, live_text
from guardmw.train.dataset import Row, Taxonomy

__all__ = [
    "NO",
    "UNKNOWN",
    "YES",
    "CategoryText",
    "category_texts",
    "label_matrix",
    "read_themes",
    "read_wordings",
    "usable",
]

YES, NO, UNKNOWN = 1, 0, -1

GENERAL = "general_harm"
NOT_PLAINLY_HARM = frozenset({
    "profanity", "sensitive_request", "prompt_extraction", "jailbreak", "injection", "political", "copyright",
    "financial_advice", "legal_advice", "health_advice", "gambling", "property_damage",
    "suspicious_download", "unethical",
})  # fmt: skip
"""Themes that some policies forbid, though their texts do no plain harm."""

TOPIC_WORDS = {
    theme: re.compile(rf"\b(?:{words})", re.IGNORECASE)
    for theme, words in {
        "financial_advice": "invest|stocks?\\b|shares?\\b|loan|mortgage|savings|retire|portfolio|crypto|bitcoin|tax",
        "legal_advice": "lawyer|legal|lawsuit|sue\\b|court|contract|attorney|rights\\b",
        "health_advice": "doctor|symptom|medic|treat|diagnos|dose|pain|disease|diet|vitamin|therap",
        "political": "politic|election|vote|party|president|senat|campaign|government|democra|republican",
        "copyright": "lyrics|poem|novel|song|book|article|harry potter",
        "gambling": "bet\\b|betting|casino|poker|lotter|gambl|odds",
    }.items()
}
"""Themes that ordinary harmless text may be about: one that has such a word counts neither for nor against them."""

UNFIT_SOURCES = frozenset({
    "presidio_pii", "pii_nano", "credsweeper", "leaky_repo",  # detectors judge these
    "toolemu", "openagentsafety", "privacylens",  # the label hangs on the context, which is not in the content
})  # fmt: skip
CONTEXTUAL = frozenset({
    "diasafety/Risk Ignorance", "diasafety/Toxicity Agreement", "diasafety/Unauthorized Expertise",
    "dices/unsafe_to_raters",
})  # fmt: skip
UNFIT_UNSAFE_SOURCES = frozenset({"agent_safetybench"})
"""Their unsafe rows are unsafe in an environment that the content doesn't show."""

ASCII_SHARE = 0.9


class Theme(BaseModel):
    """One theme of `themes.yaml`; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: tuple[str, ...]
    members: frozenset[str]
    near: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CategoryText:
    """A category as the encoder sees it; `key` is ``taxonomy/category``, or None for a theme's phrasing."""

    text: str
    themes: frozenset[str]
    key: str | None = None


@cache
def read_themes() -> dict[str, Theme]:
    content = yaml.safe_load((resources.files(__package__) / "themes.yaml").read_text(encoding="utf-8"))
    return TypeAdapter(dict[str, Theme]).validate_python(content)


class _Composite(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    themes: frozenset[str]


class _Wordings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    themes: dict[str, tuple[str, ...]]
    composites: tuple[_Composite, ...]


def read_wordings() -> list[CategoryText]:
    """The wordings of `wordings.yaml`."""
    content = yaml.safe_load((resources.files(__package__) / "wordings.yaml").read_text(encoding="utf-8"))
    wordings = _Wordings.model_validate(content)
    single = [CategoryText(text, frozenset({theme})) for theme, texts in wordings.themes.items() for text in texts]
    return single + [CategoryText(composite.text, composite.themes) for composite in wordings.composites]


def themes_of(key: str) -> frozenset[str]:
    """The themes under which the category `key` stands."""
    taxonomy, _, category = key.partition("/")
    if taxonomy == "written":
        return frozenset({category})
    anything = f"{taxonomy}/*"
    return frozenset(name for name, theme in read_themes().items() if key in theme.members or anything in theme.members)


def category_texts(taxonomies: dict[str, Taxonomy]) -> list[CategoryText]:
    """Every phrasing of every theme, composites of several, and every taxonomy category that stands under one."""
    phrasings = [CategoryText(text, frozenset({name})) for name, theme in read_themes().items() for text in theme.texts]
    named = [
        CategoryText(f"{category.replace('_', ' ')}. {definition}", themes_of(key), key)
        for name, taxonomy in taxonomies.items()
        for category, definition in taxonomy.categories.items()
        for key in [f"{name}/{category}"]
    ]
    return phrasings + read_wordings() + [category for category in named if category.themes]


def usable(row: Row) -> bool:
    """Whether the content of `row` alone, in a language that the encoder knows, bears out its label."""
    if row.task == "trajectory" or row.source in UNFIT_SOURCES or not row.content.strip():
        return False
    if row.unsafe and (row.source in UNFIT_UNSAFE_SOURCES or CONTEXTUAL.intersection(_keys(row))):
        return False
    if row.unsafe and not any(map(themes_of, _keys(row))):
        return False
    if row.unsafe and row.task == "tool_call" and live_text(row).endswith(NO_ARGUMENTS):
        return False  # the label hangs on the tool's description, which no guard of calls reads
    return sum(map(str.isascii, row.content)) >= ASCII_SHARE * len(row.content)


def label_matrix(rows: Sequence[Row], categories: Sequence[CategoryText]) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Kinds of rows by categories: YES, NO or UNKNOWN; and for each row its kind."""
    kinds: dict[tuple[bool, frozenset[str], frozenset[str]], int] = {}
    places = np.array([kinds.setdefault(_kind(row), len(kinds)) for row in rows])
    labels = [[_label(*kind, category) for category in categories] for kind in kinds]
    return np.array(labels, dtype=np.int8), places


def _kind(row: Row) -> tuple[bool, frozenset[str], frozenset[str]]:
    return row.unsafe, _keys(row), frozenset() if row.unsafe else _topics(row.content) - set(row.meta.harmless_under)


def _topics(text: str) -> frozenset[str]:
    """The themes that forbid a topic, of which harmless text may speak too, that `text` has a word of."""
    return frozenset(theme for theme, words in TOPIC_WORDS.items() if words.search(text))


def _keys(row: Row) -> frozenset[str]:
    return frozenset(f"{row.policy}/{category}" for category in row.categories)


def _label(unsafe: bool, keys: frozenset[str], topics: frozenset[str], category: CategoryText) -> int:
    if not unsafe:
        return UNKNOWN if category.themes & topics else NO
    golds = [themes_of(key) for key in keys]
    certain = frozenset().union(*(gold for gold in golds if len(gold) == 1))
    possible = frozenset().union(*golds)
    if category.key in keys or certain & category.themes or any(gold and gold <= category.themes for gold in golds):
        return YES
    if GENERAL in category.themes:
        return UNKNOWN if possible & NOT_PLAINLY_HARM else YES
    near = frozenset().union(*(read_themes()[theme].near for theme in possible))
    if not possible or GENERAL in possible or (possible | near) & category.themes:
        return UNKNOWN
    return NO
