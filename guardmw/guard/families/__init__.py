"""The families of guard models that `VllmGuard` can speak to, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guardmw.errors import GuardConfigError
from guardmw.guard.families.base import Family
from guardmw.guard.families.classifier import Classifier
from guardmw.guard.families.gpt_oss import GptOssSafeguard
from guardmw.guard.families.gspr import Gspr, RSafe
from guardmw.guard.families.llama_guard import LLAMA_GUARD_3, LLAMA_GUARD_4
from guardmw.guard.families.qwen3guard import Qwen3Guard
from guardmw.guard.families.taxonomy import LabelMap
from guardmw.guard.families.yes_no import GraniteGuardian, ShieldGemma

__all__ = ["FAMILIES", "Family", "family_named"]

_POLICY_FAMILIES: dict[str, Callable[[], Family]] = {
    "gspr": Gspr,
    "rsafe": RSafe,
    "llama-guard-3": lambda: LLAMA_GUARD_3,
    "llama-guard-4": lambda: LLAMA_GUARD_4,
    "gpt-oss-safeguard": GptOssSafeguard,
    "granite-guardian": GraniteGuardian,
    "shieldgemma": ShieldGemma,
}
FAMILIES = (*_POLICY_FAMILIES, "qwen3guard-gen", "classifier")
"""Names that `family_named` knows. The last two have labels of their own, which `mapping` maps to categories."""


def family_named(name: str, *, mapping: LabelMap | None = None, labels: Sequence[str] | None = None) -> Family:
    """The family called `name`; `mapping` is for families with labels of their own, `labels` for classifiers.

    Raises GuardConfigError when there is no such family, or when it takes no `mapping` or `labels`.
    """
    if name == "classifier":
        return Classifier(labels or (), mapping)
    if labels is not None:
        raise GuardConfigError(f"the family {name!r} has its own labels; `labels` is for the family 'classifier'")
    if name == "qwen3guard-gen":
        return Qwen3Guard(mapping)
    if name not in _POLICY_FAMILIES:
        raise GuardConfigError(f"there is no guard family {name!r}. Families known: {', '.join(FAMILIES)}.")
    if mapping:
        raise GuardConfigError(f"the family {name!r} reads the policy's own categories; there is nothing to map")
    return _POLICY_FAMILIES[name]()
