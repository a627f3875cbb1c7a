"""A trajectory in steps. A guard never sees a whole run: it is asked about each thing the agent says or does.

Steps begin at lines such as ``ACTION:``. What the agent did is judged, its words as output and its actions as tool
calls, each after those before it; what users said and tools returned is the conversation, since the label says what the
agent made of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from guardmw.train.calls import step_call
from guardmw.types import Check, Message, Role, Surface, ToolCall

__all__ = ["trajectory_checks"]

STEP = re.compile(
    r"^(USER|HUMAN|SYSTEM|AGENT|ASSISTANT|THOUGHT|ACTION|FINAL ANSWER|OBSERVATION|ENVIRONMENT|TOOL"
    r"|Thought|Action|Final Answer|Observation)\s*:\s*",
    re.MULTILINE,
)
JUDGED: dict[str, Surface] = {
    "AGENT": "output", "ASSISTANT": "output", "THOUGHT": "reasoning", "ACTION": "tool_call", "FINAL ANSWER": "output"
}  # fmt: skip
ROLES: dict[str, Role] = {
    "USER": "user", "HUMAN": "user", "SYSTEM": "system", "OBSERVATION": "tool", "ENVIRONMENT": "tool", "TOOL": "tool"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Step:
    speaker: str
    text: str


def trajectory_checks(content: str, said: tuple[Message, ...] = ()) -> list[Check]:
    """A check per step of the agent, each with what came before as its conversation (`said` first of all).

    Text in which no step of an agent shows is judged whole, as output.
    """
    checks, conversation = [], said
    calls: tuple[ToolCall, ...] = ()
    for step in _steps(content):
        made = step_call(step.text) if step.speaker == "ACTION" else None
        if made is not None:
            calls = (*calls, made[0])
            checks.append(Check("tool_call", made[1], conversation=conversation, calls=calls))
        elif step.speaker in JUDGED:
            checks.append(Check(JUDGED[step.speaker], step.text, conversation=conversation))
        conversation = (*conversation, Message(ROLES.get(step.speaker, "assistant"), step.text))
    return checks or [Check("output", content, conversation=said)]


def _steps(content: str) -> list[_Step]:
    """The steps with text; what stands before the first one is an agent's."""
    found = list(STEP.finditer(content))
    ends = [step.start() for step in found[1:]] + [len(content)]
    before = content[: found[0].start()].strip() if found else ""
    steps = [_Step("AGENT", before)] if before else []
    steps += (
        [_Step(step[1].upper(), content[step.end() : end].strip()) for step, end in zip(found, ends, strict=True)]
        if found
        else []
    )
    return [step for step in steps if step.text]
