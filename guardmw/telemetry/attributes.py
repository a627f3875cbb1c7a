"""The attributes of checks and decisions, by what they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardmw.policy.schema import Policy
from guardmw.telemetry import names
from guardmw.telemetry.findings import worst
from guardmw.types import Check, Decision, Finding, Verdict

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    Attributes = dict[str, AttributeValue]


def of_check(check: Check, policy: Policy, guard_name: str) -> Attributes:
    attributes: Attributes = {
        names.OPERATION_NAME: names.APPLY_GUARDRAIL,
        names.COMPONENT_NAME: guard_name,
        names.POLICY_ID: policy.id,
        names.POLICY_VERSION: policy.hash,
        names.SOURCE: names.SOURCES[check.surface],
        names.SURFACE: check.surface,
        names.AGENT_NAME: check.agent,
        names.CHECK_ID: check.id,
        names.SPAN_KIND: names.SPAN_KIND_GUARDRAIL,
    }
    if check.stream_id is not None:
        attributes |= {names.STREAM_ID: check.stream_id, names.STREAM_OFFSET: check.offset_chars}
    return attributes


def of_event(decision: Decision, policy: Policy) -> Attributes:
    check = decision.check
    return {
        names.COMPONENT_NAME: decision.verdict.guard,
        names.POLICY_ID: policy.id,
        names.POLICY_VERSION: policy.hash,
        names.SOURCE: names.SOURCES[check.surface],
        names.AGENT_NAME: check.agent,
        names.CHECK_ID: check.id,
    }


def of_result(decision: Decision) -> Attributes:
    attributes: Attributes = {
        names.RESULT_TYPE: names.RESULT_TYPE_VERDICT,
        names.RESULT_VALUE: names.RESULTS[decision.action],
        names.ACTION: names.effect(decision),
        names.MODE: decision.mode,
    }
    if decision.approval is not None:
        attributes[names.APPROVAL] = decision.approval
    return attributes


def of_verdict(verdict: Verdict, found: tuple[Finding, ...]) -> Attributes:
    tokens = verdict.tokens
    attributes: Attributes = {names.CACHE_HIT: verdict.cached, names.COMPONENT_VERSION: verdict.guard_version}
    if tokens.prompt:  # the SDK takes 2 µs for every attribute, and not every guard counts tokens
        attributes[names.TOKENS_PROMPT] = tokens.prompt
        attributes[names.TOKENS_CACHED] = tokens.cached
        attributes[names.TOKENS_COMPLETION] = tokens.completion
    if verdict.fell_back is not None:
        attributes[names.FALLBACK] = "fallback"
    if highest := worst(found or verdict.findings):
        attributes[names.RISK_SCORE] = highest.probability
    return attributes


def fallback(decision: Decision, policy: Policy) -> str:
    """What took the place of the guard's verdict: ``fallback`` another guard, ``allow`` or ``block`` the policy."""
    if decision.verdict.error is None:
        return "fallback"
    return "allow" if policy.on_guard_error.on(decision.check.surface) == "allow" else "block"


def of_finding(decision: Decision, finding: Finding | None) -> Attributes:
    """Category, rule and reason. The reason is put together here and is not `decision.why`: conventions want it low
    in cardinality and free of the user's text."""
    error = decision.verdict.error
    if finding is None:
        return {names.RESULT_REASON: f"guard failed: {error}"} if error else {}
    return {
        names.RISK_CATEGORY: finding.category,
        names.POLICY_RULE_ID: finding.category if finding.source.startswith("guard:") else finding.source,
        names.RESULT_REASON: f"{finding.source} found {finding.category}",
    }
