"""guardmw stands between an LLM agent and the world.

It checks what goes in and what comes out against a written policy per agent, and blocks, redacts, asks or flags
before anyone sees the text. `Checker` decides single texts; `guardmw.stream.gate.guard_stream` guards streams;
`guardmw_langgraph` wraps LangGraph agents.
"""

from guardmw.checker import Checker
from guardmw.guard.base import Guard
from guardmw.policy.load import load_policies
from guardmw.policy.match import PolicySet
from guardmw.policy.schema import Policy
from guardmw.types import Action, Check, Decision, Finding, Surface, Verdict

__all__ = [
    "Action",
    "Check",
    "Checker",
    "Decision",
    "Finding",
    "Guard",
    "Policy",
    "PolicySet",
    "Surface",
    "Verdict",
    "load_policies",
]
