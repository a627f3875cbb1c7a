"""Guards with a fixed list of labels, and how their labels meet a policy's categories.

A label goes where the user's map says; without an entry, to the categories whose id or title shares most of its words.
A label that finds no counterpart stands for every category of the policy: an unsafe verdict is never dropped because
the policy has no word for it. Who wants it dropped says so, with an empty entry in the map.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache

from guardmw.errors import GuardConfigError
from guardmw.policy.schema import Category, Policy
from guardmw.types import Surface

__all__ = ["LabelMap", "counterparts"]

logger = logging.getLogger("guardmw.guard")

LabelMap = Mapping[str, tuple[str, ...]]
"""A guard's label to ids of the policy's categories; an empty tuple ignores the label."""

_WORD = re.compile(r"[^\W_]+")
_SMALL = frozenset({"a", "an", "and", "acts", "content", "of", "or", "other", "the", "to", "with", "about", "against"})
MIN_STEM = 5
MIN_OVERLAP = 0.5


def counterparts(
    labels: Mapping[str, str], policy: Policy, surface: Surface, given: LabelMap, guard: str
) -> dict[str, tuple[str, ...]]:
    """Every label's categories, among those on `surface`; `labels` gives each label the words it is compared by.

    A label has none when `given` says so, or sends it to categories of other surfaces alone.
    Raises GuardConfigError when `given` names a label that the guard doesn't have.
    """
    strange = [label for label in given if label not in labels]
    if strange:
        raise GuardConfigError(
            f"guard {guard!r} has no label {strange[0]!r} to map; its labels are {', '.join(map(repr, labels))}"
        )
    categories = policy.categories_on(surface)
    return {
        label: _kept(given[label], categories)
        if _is_settled(label, given, policy)
        else _found(label, words, categories, guard)
        for label, words in labels.items()
    }


def _is_settled(label: str, given: LabelMap, policy: Policy) -> bool:
    """Whether `given` decides about `label`; an entry with none but unknown ids, as of a slip in writing, doesn't."""
    wanted = given.get(label)
    return wanted is not None and (not wanted or any(category.id in wanted for category in policy.categories))


def _kept(wanted: tuple[str, ...], categories: tuple[Category, ...]) -> tuple[str, ...]:
    return tuple(category.id for category in categories if category.id in wanted)


def _found(label: str, words: str, categories: tuple[Category, ...], guard: str) -> tuple[str, ...]:
    alike = tuple(category.id for category in categories if _alike(words, category))
    if alike:
        return alike
    ids = tuple(category.id for category in categories)
    _say_once(guard, label, ids)
    return ids


@lru_cache(maxsize=512)
def _say_once(guard: str, label: str, ids: tuple[str, ...]) -> None:
    logger.warning(
        "guard %r: its label %r has no counterpart among %s and stands for all of them; map it (`map.%s=category`, or "
        "with nothing behind the sign to ignore it)",
        guard, label, ", ".join(ids), label,
    )  # fmt: skip


def _alike(text: str, category: Category) -> bool:
    said, titled, named = _words(text), _words(category.title), _words(category.id)
    return max(_overlap(said, titled), _overlap(said, named)) >= MIN_OVERLAP


def _overlap(said: list[str], other: list[str]) -> float:
    if not said or not other:
        return 0.0
    shared = sum(any(_same_stem(word, candidate) for candidate in other) for word in said)
    return shared / min(len(said), len(other))


def _words(text: str) -> list[str]:
    return [word for word in (found.casefold() for found in _WORD.findall(text)) if word not in _SMALL]


def _same_stem(word: str, other: str) -> bool:
    length = min(len(word), len(other))
    return word == other or (length >= MIN_STEM and word[:MIN_STEM] == other[:MIN_STEM])
