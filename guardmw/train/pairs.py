"""Which texts fall under which categories: from rows with one taxonomy's labels to pairs under everybody's wording.

A row says only what it is in its own taxonomy. `themes.yaml` says what the taxonomies have in common, so a row counts
for or against categories of other taxonomies and policies too, and for neither where its label can't tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from guardmw.train.calls import NO_ARGUMENTS, live_text
from guardmw.train.dataset import UNSPECIFIED, Row, Taxonomy

__all__ = [
    "NO",
    "UNKNOWN",
    "YES",
    "CategoryText",
    "category_texts",
    "label_matrix",
    "own_categories",
    "read_themes",
    "read_wordings",
    "unusable",
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
    """A category as the encoder sees it; `key` is ``taxonomy/category``, or None for a theme's phrasing. One of a
    taxonomy that no theme knows has no themes, but `siblings`: the keys of that taxonomy, its own among them."""

    text: str
    themes: frozenset[str]
    key: str | None = None
    siblings: frozenset[str] = frozenset()


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


def own_categories(taxonomies: Mapping[str, Taxonomy]) -> dict[str, frozenset[str]]:
    """The keys of taxonomies of which `themes.yaml` knows no category, each with all those of its taxonomy."""
    found: dict[str, frozenset[str]] = {}
    for name, taxonomy in taxonomies.items():
        keys = frozenset(f"{name}/{category}" for category in taxonomy.categories if category != UNSPECIFIED)
        if not any(map(themes_of, keys)):
            found |= dict.fromkeys(keys, keys)
    return found


def category_texts(taxonomies: Mapping[str, Taxonomy], rows: Iterable[Row] = ()) -> list[CategoryText]:
    """Every phrasing of every theme, composites of several, every taxonomy category that stands under one, and those
    of other taxonomies that unsafe `rows` use."""
    phrasings = [CategoryText(text, frozenset({name})) for name, theme in read_themes().items() for text in theme.texts]
    used = frozenset(key for row in rows if row.unsafe for key in _keys(row))
    own = {key: siblings for key, siblings in own_categories(taxonomies).items() if siblings & used}
    named = [
        CategoryText(f"{category.replace('_', ' ')}. {definition}", themes_of(key), key, own.get(key, frozenset()))
        for name, taxonomy in taxonomies.items()
        for category, definition in taxonomy.categories.items()
        for key in [f"{name}/{category}"]
    ]
    return phrasings + read_wordings() + [category for category in named if category.themes or category.siblings]


def unusable(row: Row, own: Iterable[str] = ()) -> str | None:
    """Why `row` can't be learned from: None when its content alone, in a language that the encoder knows, bears out its
    label. `own` are keys of categories that count although no theme knows them."""
    if row.task == "trajectory":
        return "whole trajectories, which no guard sees"
    if not row.content.strip():
        return "blank texts"
    if row.source in UNFIT_SOURCES:
        return "left to detectors, or labelled by what the text doesn't show"
    if row.unsafe and (why := _unfounded(row, own)):
        return why
    if sum(map(str.isascii, row.content)) < ASCII_SHARE * len(row.content):
        return f"less than {ASCII_SHARE:.0%} ASCII, and the encoder knows English"
    return None


def _unfounded(row: Row, own: Iterable[str]) -> str | None:
    """Why the content of an unsafe row doesn't bear out its label."""
    keys = _keys(row)
    if row.source in UNFIT_UNSAFE_SOURCES or CONTEXTUAL & keys:
        return "unsafe in a context that the text doesn't show"
    if not any(map(themes_of, keys)) and keys.isdisjoint(own):
        return "unsafe under no category that training can use"
    if row.task == "tool_call" and live_text(row).endswith(NO_ARGUMENTS):
        return "unsafe calls without arguments"  # the label hangs on the tool's description, which no guard reads
    return None


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
    if category.key in keys:
        return YES
    if category.siblings or not any(golds):
        # Nothing says what a taxonomy that no theme knows has in common with others.
        return NO if keys & category.siblings else UNKNOWN
    certain = frozenset().union(*(gold for gold in golds if len(gold) == 1))
    possible = frozenset().union(*golds)
    if certain & category.themes or any(gold and gold <= category.themes for gold in golds):
        return YES
    if GENERAL in category.themes:
        return UNKNOWN if possible & NOT_PLAINLY_HARM else YES
    near = frozenset().union(*(read_themes()[theme].near for theme in possible))
    if GENERAL in possible or (possible | near) & category.themes:
        return UNKNOWN
    return NO
