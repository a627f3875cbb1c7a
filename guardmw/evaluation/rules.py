"""Which policy a row is judged under: one made from its taxonomy, or the one that was given.

A taxonomy becomes a policy with a category for each of its own. Its case's text (``meta.policy_text``) goes into the
definitions where a row has one, since the label hangs on it. Rows labelled safe whose `policy` is ``benign`` belong to
no taxonomy: they are safe under any, and are judged under the bundled policy `base`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guardmw.evaluation.onset import onset_of
from guardmw.policy.load import load_policies
from guardmw.policy.schema import Category, Detectors, PiiDetector, Policy, SecretsDetector
from guardmw.train.dataset import UNSPECIFIED, Row, Taxonomy
from guardmw.train.rows import misfit

__all__ = ["BENIGN_POLICY", "RuleBook", "Rules", "UnfitRowError", "with_threshold"]

BENIGN_POLICY = "base"
DEADLINE_MS = 600_000
"""The longest a policy may name. Checks wait for each other here, so no policy's own deadline would say anything about
the guard."""
ID_CHARS = 64
DETECTORS = Detectors(pii=PiiDetector(action="block"), secrets=SecretsDetector())


class UnfitRowError(ValueError):
    """A row can't be judged, and the message says why."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy, and for category names of the rows' taxonomy the ids of its categories (empty: not comparable)."""

    policy: Policy
    ids: Mapping[str, str]


class RuleBook:
    """Gives every row its rules. `policy` holds for all rows when it is given, `taxonomies` otherwise.

    Policies made here have no detectors unless `detectors` is set: what is measured is the guard. `threshold` replaces
    the thresholds of every policy.
    """

    def __init__(
        self,
        taxonomies: Mapping[str, Taxonomy],
        *,
        policy: Policy | None = None,
        threshold: float | None = None,
        detectors: bool = False,
    ) -> None:
        self._taxonomies, self._threshold = taxonomies, threshold
        self._given = None if policy is None else Rules(with_threshold(_patient(policy), threshold), {})
        self._detectors = DETECTORS if detectors else Detectors()
        self._made: dict[tuple[str, str], Rules] = {}

    def for_row(self, row: Row) -> Rules:
        """Raises UnfitRowError when the row's taxonomy is unknown or lacks one of the row's categories, when a row of
        `BENIGN` is labelled unsafe, and when a response says where its unsafe part begins, but not within its text."""
        _check_onset(row)
        if self._given is not None:
            return self._given
        if why := misfit(row, self._taxonomies):
            raise UnfitRowError(why)
        key = (row.policy, case_text(row))
        if key not in self._made:
            self._made[key] = self._make(row)
        return self._made[key]

    def _make(self, row: Row) -> Rules:
        taxonomy = self._taxonomies.get(row.policy)
        if taxonomy is not None:
            policy, ids = made_policy(row.policy, taxonomy, case_text(row))
        else:
            policy, ids = load_policies(BENIGN_POLICY).policies[BENIGN_POLICY], {}
        policy = _patient(policy).model_copy(update={"detectors": self._detectors})
        return Rules(with_threshold(policy, self._threshold), ids)


def _check_onset(row: Row) -> None:
    if row.task == "response":
        try:
            onset_of(row)
        except ValueError as error:
            raise UnfitRowError(str(error)) from error


def case_text(row: Row) -> str:
    """The rule written for this row alone, "" when there is none."""
    text = (row.meta.model_extra or {}).get("policy_text", "")
    return text.strip() if isinstance(text, str) else ""


def made_policy(name: str, taxonomy: Taxonomy, case: str = "") -> tuple[Policy, dict[str, str]]:
    """A policy that says what `taxonomy` says, and the category ids by the taxonomy's names."""
    definitions = {key: text for key, text in taxonomy.categories.items() if key != UNSPECIFIED}
    ids = identifiers(definitions)
    categories = [
        _category(ids[key], readable(key), text.strip() or taxonomy.unsafe_when, case)
        for key, text in definitions.items()
    ] or [_category("unsafe", f"Unsafe {readable(taxonomy.judges, 'or').lower()}", taxonomy.unsafe_when, case)]
    (identifier,) = identifiers([name]).values()
    return Policy(id=identifier, description=taxonomy.unsafe_when, categories=tuple(categories)), ids


def _category(identifier: str, title: str, unsafe_when: str, case: str) -> Category:
    return Category(id=identifier, title=title, unsafe_when=f"{unsafe_when} {case}".strip() or title)


def readable(name: str, between: str = "/") -> str:
    """A name as people write it: ``tool_call/prompt`` is "Tool call or prompt" with `between` "or"."""
    words = name.replace("_", " ").strip()
    words = words.replace("/", f" {between} ") if between != "/" else words
    return words[:1].upper() + words[1:] or "Unsafe"


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """An id for each of `names`, all different, in the form that policies ask for."""
    ids: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:ID_CHARS] or "category"
        candidate, count = plain, 1
        while candidate in ids.values():
            count += 1
            candidate = f"{plain[: ID_CHARS - 6]}_{count}"
        ids[name] = candidate
    return ids


def with_threshold(policy: Policy, threshold: float | None) -> Policy:
    """`policy` with every category blocking above `threshold`, without a band; None leaves it as it is."""
    if threshold is None:
        return policy
    update = {"block_above": threshold, "ask_above": None}
    categories = tuple(category.model_copy(update=update) for category in policy.categories)
    return policy.model_copy(update={"categories": categories, "strictness": 0.5})


def _patient(policy: Policy) -> Policy:
    limits = policy.limits.model_copy(update={"deadline_ms": DEADLINE_MS, "checks_per_s": None})
    return policy.model_copy(update={"limits": limits})
