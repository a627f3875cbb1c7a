"""guardmw stands between an LLM agent and the world.

It checks what goes in and what comes out against a written policy per agent, and blocks, redacts, asks or flags
before anyone sees the text. `Checker` decides single texts; `guardmw.stream.gate.guard_stream` guards streams;
`guardmw_langgraph` wraps LangGraph agents.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "guardmw.checker": ["Checker"],
    "guardmw.guard.base": ["Guard"],
    "guardmw.policy.load": ["load_policies"],
    "guardmw.policy.match": ["PolicySet"],
    "guardmw.policy.schema": ["Policy"],
    "guardmw.types": ["Action", "Check", "Decision", "Finding", "Surface", "Verdict"],
}
"""Imported when first asked for (PEP 562): `guardmw --help` needs none of them, and they take most of its time."""


if not TYPE_CHECKING:  # or every misspelt name would have a type

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
