"""What rules say to a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from guardmw.policy.schema import OnBlock

RuleAction = Literal["allow", "check", "ask", "deny"]
"""`allow` and `deny` are final; `check` leaves it to the guard; `ask` to a person."""


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What the rules say to a call. `rule` names the one that decided: ``tool:<pattern>``, ``sequence:<name>`` or
    ``default``; `why` is a sentence for people and models, `instead` one that says what would be allowed; `on_block`
    what the call does to the run when it is refused."""

    action: RuleAction
    rule: str
    why: str
    instead: str = ""
    on_block: OnBlock = "tell"
