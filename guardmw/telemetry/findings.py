"""Which findings of a decision mattered: those above the threshold of their category."""

from __future__ import annotations

from guardmw.policy.schema import Policy
from guardmw.types import Check, Decision, Finding


def threshold(finding: Finding, check: Check, policy: Policy) -> float | None:
    """The probability above which `finding` has consequences, at the policy's strictness: the lower end of the
    category's uncertain band. Detectors and rules are sure of what they found: 0. None: the policy doesn't judge this
    category on this surface."""
    if not finding.source.startswith("guard:"):
        return 0.0
    for category in policy.categories_on(check.surface):
        if category.id == finding.category:
            return policy.thresholds(category)[0]
    return None


def mattering(decision: Decision, policy: Policy) -> tuple[Finding, ...]:
    """The findings above their threshold, in the verdict's order; none when the decision is to allow."""
    if decision.action == "allow":
        return ()
    return tuple(finding for finding in decision.verdict.findings if _matters(finding, decision.check, policy))


def worst(findings: tuple[Finding, ...]) -> Finding | None:
    """The most probable finding; the first of several."""
    return max(findings, key=lambda finding: finding.probability, default=None)


def _matters(finding: Finding, check: Check, policy: Policy) -> bool:
    limit = threshold(finding, check, policy)
    return limit is not None and finding.probability > limit
