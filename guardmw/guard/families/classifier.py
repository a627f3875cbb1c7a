"""Classifiers on vLLM's pooling runner: one forward pass, probabilities per label, no decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guardmw.errors import GuardConfigError
from guardmw.guard.families.base import FollowUp, ReasoningQuery, Request, VerdictQuery
from guardmw.guard.families.taxonomy import LabelMap, counterparts
from guardmw.guard.prompt import neutral
from guardmw.policy.schema import Policy
from guardmw.types import Check

__all__ = ["Classifier"]

SAFE_LABELS = frozenset({"safe", "benign", "harmless", "ok", "none", "neutral", "normal", "no", "negative"})
WHOLE_TEXT = frozenset({"unsafe", "harmful", "malicious", "toxic", "yes", "positive", "injection"})
"""Labels of classifiers that only say that a text is unsafe, not how."""


class Classifier:
    """A classifier whose model has `labels`, in the order of its ``id2label``.

    `safe` names those that mean a safe text; the others are unsafe, and stand for categories of the policy as
    `mapping` or their names say. The text is judged alone, without its conversation.

    Raises GuardConfigError when `labels` can't serve: fewer than two, none safe or none unsafe, one given twice.
    """

    name = "classifier"
    version = "2"

    def __init__(
        self, labels: Sequence[str], mapping: LabelMap | None = None, safe: Sequence[str] | None = None
    ) -> None:
        self.labels = tuple(labels)
        wanted = {name.casefold() for name in safe} if safe is not None else SAFE_LABELS
        self._weights = {label: 0.0 if label.casefold() in wanted else 1.0 for label in self.labels}
        if len(set(self.labels)) != len(self.labels) or set(self._weights.values()) != {0.0, 1.0}:
            raise GuardConfigError(
                f"a classifier's `labels` must list the model's labels in order, safe and unsafe ones, not {labels!r}; "
                "they stand in its config.json under id2label, and `safe` tells which of them mean a safe text"
            )
        self._mapping = mapping or {}

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        about = tuple(category.id for category in policy.categories_on(check.surface))
        unsafe = [label for label, weight in self._weights.items() if weight > 0]
        given = self._general(about)
        mapped = counterparts({label: label for label in unsafe}, policy, check.surface, given, self.name)
        # A label that is ignored counts as safe: it must not lend its probability to the categories of others.
        kept = {label: ids for label, ids in mapped.items() if ids}
        weights = {label: float(label in kept) for label in self.labels}
        return (VerdictQuery(Request(prompt=neutral(check.content), classify=True), weights, about, kept),)

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        return None

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return None

    def _general(self, about: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """The map, with labels that name no kind of harm standing for all categories."""
        general = {label: about for label, weight in self._weights.items() if weight and label.casefold() in WHOLE_TEXT}
        return {**general, **self._mapping}
