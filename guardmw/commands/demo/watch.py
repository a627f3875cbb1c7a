"""What happened so far in one run of the demo's agent: said by the model, judged, shown to the user."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from guardmw.types import Action, Decision, Surface, most_severe, severity


@dataclass(slots=True)
class Judged:
    """A decision, and when it fell, in seconds since the run began."""

    at_s: float
    decision: Decision


@dataclass(slots=True)
class Said:
    """One answer of the model: all it generated, how much of that was cleared, and what the user read of it."""

    text: str = ""
    cleared: int = 0
    shown: str = ""
    withheld: bool = False
    final: bool = False

    @property
    def unseen(self) -> str:
        """What was generated and not cleared: held for its verdict, or withheld for good."""
        return self.text[self.cleared :]


@dataclass(slots=True)
class ToolUse:
    """A call in the agent's state: what was asked and answered about it, and what came back."""

    name: str
    arguments: str
    result: str = ""
    id: str | None = None
    asked: str = ""
    refused: bool = False


@dataclass(slots=True)
class Watch:
    """A recorder, and a listener at the model's and the user's end."""

    user: str
    steps: list[Said | ToolUse] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    started_s: float = field(default_factory=time.perf_counter)
    first_shown_s: float | None = None
    ended_s: float | None = None

    def begins(self) -> None:
        self.started_s = time.perf_counter()

    def record(self, decision: Decision) -> None:
        self.judged.append(Judged(self.now_s, decision))
        surface: Surface = decision.check.surface
        if surface == "output" and (said := self.saying) is not None:
            if decision.withheld:
                said.withheld = True
            else:
                said.cleared = len(decision.check.content)

    @property
    def now_s(self) -> float:
        return time.perf_counter() - self.started_s

    @property
    def saying(self) -> Said | None:
        """The answer that the model is giving, or gave last."""
        return next((step for step in reversed(self.steps) if isinstance(step, Said)), None)

    def model_begins(self) -> None:
        self.steps.append(Said())

    def model_says(self, text: str) -> None:
        if (said := self.saying) is not None:
            said.text += text

    def user_sees(self, text: str) -> None:
        if not text:
            return
        if self.first_shown_s is None:
            self.first_shown_s = self.now_s
        if not any(isinstance(step, Said) for step in self.steps):
            self.steps.append(Said(withheld=True))
        if (said := self.saying) is not None:
            said.shown += text

    def tool_ran(self, tool: ToolUse) -> None:
        self.steps.append(tool)

    def tool_use(self, call_id: str | None) -> ToolUse | None:
        """The newest call of that id."""
        uses = (step for step in reversed(self.steps) if isinstance(step, ToolUse))
        return next((use for use in uses if use.id == call_id), None)

    def ends(self) -> None:
        self.ended_s = self.now_s

    @property
    def action(self) -> Action:
        return most_severe(*(judged.decision.action for judged in self.judged))

    @property
    def guard_ms(self) -> list[float]:
        """How long the guard took, for each check that it answered."""
        return [1e3 * judged.decision.verdict.duration_s for judged in self.judged if judged.decision.verdict.guard]

    @property
    def labels(self) -> list[str]:
        """The replacements that redactions put into the text."""
        decisions = (judged.decision for judged in self.judged)
        return [redaction.replacement for decision in decisions for redaction in decision.redactions]

    @property
    def withheld_chars(self) -> int:
        """Characters that the model generated and nobody saw."""
        return sum(len(step.unseen) for step in self.steps if isinstance(step, Said) and step.withheld)

    def worst(self) -> Decision | None:
        decisions = [judged.decision for judged in self.judged]
        return max(decisions, key=lambda decision: severity(decision.action), default=None)
