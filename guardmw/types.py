"""The values everything else speaks in: frozen, comparable, free of behaviour that needs another module.

Positions are characters (Python string indices) counted from 0; spans are half-open ``[start, end)``.
Probabilities lie in [0, 1]. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args
from uuid import uuid4

Surface = Literal["input", "output", "reasoning", "tool_call", "tool_result"]
"""Where a text was found: `input` what the user said, `output` what the model shows the user, `reasoning` what it
thinks before, `tool_call` a call it wants to make, `tool_result` what a tool returned."""

Action = Literal["allow", "flag", "redact", "ask", "block"]
"""What is done, in order of severity: `allow` nothing, `flag` record it, `redact` replace the part that offends,
`ask` let a person decide (where nobody can be asked, as in the middle of a stream, the text is withheld), `block`."""

Mode = Literal["enforce", "shadow"]
"""`enforce` acts on decisions; `shadow` takes and records them and changes nothing."""

Approval = Literal["approve", "edit", "reject", "respond"]
"""What a person said to a tool call: `approve` make it, `edit` make another one in its place, `reject` don't,
`respond` don't, and here is the answer it would have given."""

Origin = Literal["result", "error", "stream", "description"]
"""Where a `tool_result` comes from: the `result` of a call, the text of an `error` it raised, what the tool wrote to a
`stream` while it ran, or the tool's own `description`."""

Role = Literal["system", "user", "assistant", "tool"]
"""Who said a message of the conversation."""

SURFACES: tuple[Surface, ...] = get_args(Surface)
ACTIONS: tuple[Action, ...] = get_args(Action)


def severity(action: Action) -> int:
    """Place of `action` in the order of severity, 0 (allow) to 4 (block)."""
    return ACTIONS.index(action)


def most_severe(*actions: Action) -> Action:
    """The most severe of `actions`; allow when there are none."""
    return max(actions, key=severity, default="allow")


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """Which policy a check was made under: its id and the hash of its resolved content."""

    id: str
    hash: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation a check is judged in."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call as a guard sees it; `arguments` is JSON text, whatever the model wrote."""

    name: str
    arguments: str = "{}"
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One question to a guard: may this content pass?

    `content` is the whole text so far, not only what is new; `offset_chars` says how much of it earlier checks of
    the same stream covered. `policy` is filled in by the checker when it is None. `origin` is set on the surface
    ``tool_result`` only, where the last of `calls` names the tool.
    """

    surface: Surface
    content: str
    agent: str = "default"
    policy: PolicyRef | None = None
    conversation: tuple[Message, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    stream_id: str | None = None
    offset_chars: int = 0
    final: bool = True
    origin: Origin | None = None
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something seen in a text. `source` is ``detector:…``, ``rule:…`` or ``guard:…``; `span` is None when the
    finding is about the whole text. A finding of low probability is a finding too: thresholds are the checker's."""

    category: str
    probability: float
    source: str
    span: tuple[int, int] | None = None
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens a guard used for one check; `cached` of the `prompt` ones were not computed again."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard says: findings, who said it, and what it cost. `error` is set when there is no judgement
    (an ``error.type`` value such as ``timeout``), and then `findings` holds those of detectors and rules only;
    `fell_back` is that value when the guard failed and the fallback guard judged in its place."""

    findings: tuple[Finding, ...] = ()
    guard: str = ""
    guard_version: str = ""
    tokens: TokenUsage = TokenUsage()
    duration_s: float = 0.0
    cached: bool = False
    error: str | None = None
    fell_back: str | None = None

    @property
    def risk(self) -> float:
        """P(unsafe) as the guard sees it: that of its likeliest category; 1 when it should have judged and failed."""
        if self.error is not None:
            return 1.0
        found = (one.probability for one in self.findings if one.source.startswith("guard:"))
        return max(found, default=0.0)


@dataclass(frozen=True, slots=True)
class Redaction:
    """Replace the characters of `span` by `replacement`."""

    span: tuple[int, int]
    replacement: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a checked text, and why.

    `action` is what the policy says; `enforced` what is done about it: in shadow mode always ``allow``.
    `redactions` are ordered by position and never overlap. `approval` is set when a person decided; `ends_run` when
    the policy says that a refusal of this call ends the run.
    """

    check: Check
    verdict: Verdict
    action: Action
    why: str
    mode: Mode = "enforce"
    redactions: tuple[Redaction, ...] = ()
    approval: Approval | None = None
    ends_run: bool = False

    @property
    def enforced(self) -> Action:
        return self.action if self.mode == "enforce" else "allow"

    @property
    def withheld(self) -> bool:
        """True when the text must not be shown: blocked, or waiting for a person who can't be asked here."""
        return severity(self.enforced) >= severity("ask")


def apply_redactions(text: str, redactions: Sequence[Redaction]) -> str:
    """`text` with every redaction carried out."""
    parts, position = [], 0
    for redaction in redactions:
        start, end = redaction.span
        parts += [text[position:start], redaction.replacement]
        position = end
    return "".join([*parts, text[position:]])


def merge_redactions(redactions: Sequence[Redaction]) -> tuple[Redaction, ...]:
    """`redactions` in order of position, overlapping ones made one with the first one's replacement."""
    merged: list[Redaction] = []
    for redaction in sorted(redactions, key=lambda redaction: redaction.span):
        start, end = merged[-1].span if merged else (0, 0)
        if merged and redaction.span[0] < end:
            merged[-1] = Redaction((start, max(end, redaction.span[1])), merged[-1].replacement)
        else:
            merged.append(redaction)
    return tuple(merged)
