"""Policies: their shape, loading, matching, and the deterministic rules they carry."""

from guardmw.policy.load import as_policy_set, bundled_dir, load_policies, parse_policy
from guardmw.policy.match import PolicySet
from guardmw.policy.schema import Policy
from guardmw.policy.tools import RuleOutcome, decide_call

__all__ = [
    "Policy",
    "PolicySet",
    "RuleOutcome",
    "as_policy_set",
    "bundled_dir",
    "decide_call",
    "load_policies",
    "parse_policy",
]
