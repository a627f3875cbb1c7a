"""From evidence to decision, without asking anyone: rules, detectors, the guard's findings, the policy's thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from guardmw.policy.detectors import Match, redactions
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.types import Action, Check, Decision, Finding, Redaction, Verdict, merge_redactions, most_severe


@dataclass(frozen=True, slots=True)
class Reason:
    """One ground for an action."""

    action: Action
    why: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is certain about a check before any guard is asked. `risk_spent` is the sum of P(unsafe) of the calls that
    the run was allowed before this one."""

    matches: Sequence[Match] = ()
    rule: RuleOutcome | None = None
    risk_spent: float = 0.0

    @property
    def reasons(self) -> list[Reason]:
        reasons = [Reason(match.action, f"{match.entity} at {match.start} ({match.source})") for match in self.matches]
        return reasons if self.rule is None else [*reasons, Reason(_rule_action(self.rule), self.rule.why)]

    @property
    def action(self) -> Action:
        return most_severe(*(reason.action for reason in self.reasons))

    @property
    def findings(self) -> tuple[Finding, ...]:
        found = [Finding(match.entity, 1.0, match.source, (match.start, match.end)) for match in self.matches]
        if self.rule is not None and _rule_action(self.rule) != "allow":
            found.append(Finding(self.rule.rule, 1.0, f"rule:{self.rule.rule}", rationale=self.rule.why))
        return tuple(found)

    @property
    def needs_no_guard(self) -> bool:
        """True when a guard could change nothing: it only narrows what rules and detectors allow."""
        return self.action == "block" or (self.rule is not None and self.rule.action == "allow")


def decide(check: Check, policy: Policy, evidence: Evidence, verdict: Verdict | None) -> Decision:
    """The decision on `check`; `verdict` is None when no guard was asked."""
    verdict = verdict or Verdict()
    reasons = [
        *evidence.reasons,
        *_guard_reasons(verdict, policy),
        *_failure_reasons(check, policy, verdict),
        *_budget_reasons(check, policy, verdict, evidence.risk_spent),
    ]
    action = most_severe(*(reason.action for reason in reasons))
    why = "; ".join(reason.why for reason in reasons if reason.action == action and action != "allow")
    return Decision(
        check,
        _with(evidence, verdict),
        action,
        why or "nothing found",
        policy.mode,
        merge_redactions([*redactions(evidence.matches), *_guard_redactions(check, policy, verdict)]),
        ends_run=action == "block" and _ends_run(check, policy, evidence.rule),
    )


def _ends_run(check: Check, policy: Policy, rule: RuleOutcome | None) -> bool:
    """Whether refusing this call ends the run: as the rule that denied it says, else as the policy does."""
    if check.surface != "tool_call":
        return False
    denied = rule is not None and rule.action == "deny"
    return (rule.on_block if rule is not None and denied else policy.tools.on_block) == "terminate"


def _with(evidence: Evidence, verdict: Verdict) -> Verdict:
    return replace(verdict, findings=(*evidence.findings, *verdict.findings)) if evidence.findings else verdict


def _rule_action(rule: RuleOutcome) -> Action:
    match rule.action:
        case "allow" | "check":
            return "allow"
        case "ask":
            return "ask"
        case "deny":
            return "block"
        case unreachable:
            assert_never(unreachable)


def _guard_action(finding: Finding, policy: Policy) -> tuple[Action, float]:
    """What the policy does about a guard's finding, and the threshold that decided it."""
    category = policy.category(finding.category)
    ask, act = policy.thresholds(category)
    if finding.probability > act:
        return category.action, act
    return ("ask", ask) if finding.probability > ask else ("allow", ask)


def _guard_reasons(verdict: Verdict, policy: Policy) -> Iterator[Reason]:
    for finding in verdict.findings:
        action, threshold = _guard_action(finding, policy)
        yield Reason(action, f"{finding.category} {finding.probability:.2f} > {threshold:.2f} ({finding.source})")


def _failure_reasons(check: Check, policy: Policy, verdict: Verdict) -> Iterator[Reason]:
    if verdict.error is not None:
        answer = policy.on_guard_error.on(check.surface)
        action: Action = "allow" if answer == "allow" else "block"
        yield Reason(action, f"the guard failed ({verdict.error}); on_guard_error says {answer}")


def _budget_reasons(check: Check, policy: Policy, verdict: Verdict, spent: float) -> Iterator[Reason]:
    """Once the allowed calls of a run would cost more than its budget, a person is asked."""
    budget = policy.tools.risk_budget
    if check.surface != "tool_call" or budget is None:
        return
    risk = verdict.risk
    if spent + risk > budget:
        yield Reason("ask", f"the risk budget of this run is spent: {spent:.2f} + {risk:.2f} > {budget:g}")


def _guard_redactions(check: Check, policy: Policy, verdict: Verdict) -> Iterator[Redaction]:
    """For categories whose action is redact: the finding's span, or all that is new when it has none."""
    for finding in verdict.findings:
        if _guard_action(finding, policy)[0] == "redact":
            yield Redaction(finding.span or (check.offset_chars, len(check.content)), f"[{finding.category.upper()}]")
