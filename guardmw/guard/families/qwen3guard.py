"""Qwen3Guard-Gen (arXiv 2510.14276): a fixed policy in its chat template, three levels, nine categories.

Source: the model card. The template writes the instructions itself and takes every message for a turn to be judged, so
the guard's own turn can't be begun for it: its two lines are read from their first token on.
"""

from __future__ import annotations

from guardmw.guard.families.base import CategoryQuery, FollowUp, ReasoningQuery, Request, VerdictQuery, turns
from guardmw.guard.families.taxonomy import LabelMap, counterparts
from guardmw.policy.schema import Policy
from guardmw.types import Check

__all__ = ["QWEN3GUARD_LABELS", "Qwen3Guard"]

QWEN3GUARD_LABELS = {
    "Violent": "violent weapons terrorism",
    "Non-violent Illegal Acts": "illegal crime fraud drugs hacking",
    "Sexual Content or Sexual Acts": "sexual",
    "PII": "PII personal private data privacy",
    "Suicide & Self-Harm": "suicide self harm",
    "Unethical Acts": "unethical bias discrimination hate harassment insult",
    "Politically Sensitive Topics": "political",
    "Copyright Violation": "copyright",
    "Jailbreak": "jailbreak prompt injection",
}
"""Its categories, with the words by which a policy's categories are found for them."""

VERDICT_TOKENS = 4
CATEGORY_TOKENS = 16


class Qwen3Guard:
    """`controversial` says how unsafe its middle level counts, 0 (its loose mode) to 1 (its strict mode). `mapping`
    says which categories of the policy its labels stand for, see `guardmw.guard.families.taxonomy`."""

    name = "qwen3guard-gen"
    version = "2"

    def __init__(self, mapping: LabelMap | None = None, controversial: float = 0.5) -> None:
        if not 0 <= controversial <= 1:
            raise ValueError(f"controversial must lie in [0, 1], not {controversial}")
        self._mapping = mapping or {}
        self._labels = {"Safety: Safe": 0.0, "Safety: Unsafe": 1.0, "Safety: Controversial": controversial}

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        about = tuple(category.id for category in policy.categories_on(check.surface))
        request = Request(_dialogue(check), max_tokens=VERDICT_TOKENS)
        return (VerdictQuery(request, self._labels, about, may_ignore=bool(self._mapping)),)

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        mapped = counterparts(QWEN3GUARD_LABELS, policy, check.surface, self._mapping, self.name)
        lines = {f"Safety: Unsafe\nCategories: {label}": ids for label, ids in mapped.items()}
        request = Request(_dialogue(check), choices=tuple(lines), max_tokens=CATEGORY_TOKENS)
        return CategoryQuery(request, lines, frozenset(line for line, ids in lines.items() if not ids))

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return None


def _dialogue(check: Check) -> tuple[dict[str, str], ...]:
    said = [{"role": "user" if turn.by_user else "assistant", "content": turn.text} for turn in turns(check)]
    # The template judges the last turn of a dialogue that the user begins.
    return tuple(said if said[0]["role"] == "user" else [{"role": "user", "content": ""}, *said])
