"""Deterministic rules over tool calls: names, arguments, and the order of calls."""

from __future__ import annotations

from collections.abc import Sequence

from guardmw.policy.automaton import Automaton, state_after
from guardmw.policy.outcome import RuleAction, RuleOutcome
from guardmw.policy.schema import Tools
from guardmw.types import ToolCall

__all__ = ["RuleAction", "RuleOutcome", "decide_call"]


def decide_call(tools: Tools, call: ToolCall, history: Sequence[ToolCall]) -> RuleOutcome:
    """What `tools` says to `call`, after the calls of `history` (oldest first, `call` not among them, all succeeded).

    A broken sequence rule denies, whatever else is written; then the first rule whose pattern matches the call's name
    decides, else `tools.default`. Patterns are matched on names only, with case, and never on arguments. A rule with
    conditions on arguments takes `otherwise` when one is broken. Linear in the history, and it compiles the rules:
    who decides often keeps an `Automaton` and its state. Never raises.
    """
    automaton = Automaton(tools)
    return automaton.decide(state_after(automaton, history), call)
