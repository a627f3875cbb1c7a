"""Every error guardmw raises.

GuardmwError
├── PolicyError            a policy file or policy set can't be used (names file, line, key and the mend)
│   └── UnknownAgentError  no policy matches this agent and none is the default
├── GuardError             a guard could not judge; policies decide what follows (`on_guard_error`)
│   ├── GuardConfigError   the guard can't be built: unknown name, missing or damaged weights
│   │   └── GuardServerError   the guard's server could not be started, or ended (carries the last lines of its log)
│   ├── GuardTimeoutError  no verdict within the deadline
│   ├── GuardConnectionError  the guard's server can't be reached or failed
│   ├── GuardAnswerError   the guard answered, but not with a verdict
│   ├── GuardContextError  the text can't be brought into the guard's context, not even in windows
│   └── GuardOverloadedError  no place for the check within its deadline
├── BlockedError           raised to callers who asked for an exception instead of a replacement text
├── ApprovalError          a person's answer about a tool call can't be used; the same request can be answered again
├── TelemetryError         telemetry can't be set up: the SDK is missing, or it is set up already
├── PoisonedToolError      a tool's description may not pass, and the policy refuses to run with it
└── UnguardedError         text came from a model that the guard never saw: loud, never silent
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ApprovalError",
    "BlockedError",
    "GuardAnswerError",
    "GuardConfigError",
    "GuardConnectionError",
    "GuardContextError",
    "GuardError",
    "GuardOverloadedError",
    "GuardServerError",
    "GuardTimeoutError",
    "GuardmwError",
    "PoisonedToolError",
    "PolicyError",
    "TelemetryError",
    "UnguardedError",
    "UnknownAgentError",
]


class GuardmwError(Exception):
    """Base of all errors of guardmw."""


class PolicyError(GuardmwError):
    """A policy can't be used.

    `problem` says what is wrong, `mend` what to do about it; `file`, `line` (counted from 1) and `key`
    (dotted, such as ``categories.0.block_above``) say where, each None when it isn't known. `others` are further
    problems found in the same load; the message tells them all, a line each.
    """

    def __init__(
        self,
        problem: str,
        *,
        mend: str,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        others: tuple[PolicyError, ...] = (),
    ) -> None:
        self.problem, self.mend, self.file, self.line, self.key, self.others = problem, mend, file, line, key, others
        place = ":".join(str(part) for part in (file, line) if part is not None)
        where = " ".join(part for part in (place, f"[{key}]" if key else "") if part)
        own = f"{where}: {problem}. {mend}" if where else f"{problem}. {mend}"
        super().__init__("\n".join([own, *map(str, others)]))


class UnknownAgentError(PolicyError):
    """No policy names this agent, and no policy is called ``default``."""

    def __init__(self, agent: str, known: list[str]) -> None:
        self.agent = agent
        super().__init__(
            f"no policy matches the agent {agent!r} (patterns known: {', '.join(known) or 'none'})",
            mend="Add the name under `agents:` of a policy, or give one policy the id `default`.",
        )


class GuardError(GuardmwError):
    """A guard could not judge a check. `error_type` is the value of ``error.type`` in telemetry."""

    error_type: ClassVar[str] = "_OTHER"


class GuardConfigError(GuardError):
    """The guard can't be built as configured; raised before the first request."""

    error_type = "config_error"


class GuardServerError(GuardConfigError):
    """The guard's server could not be started; `last_lines` are the newest lines of its log, oldest first."""

    def __init__(self, problem: str, last_lines: tuple[str, ...] = ()) -> None:
        self.last_lines = last_lines
        super().__init__(f"the guard's server {problem}; its log says why")


class GuardTimeoutError(GuardError):
    """The guard gave no verdict within the deadline."""

    error_type = "timeout"

    def __init__(self, guard: str, deadline_s: float) -> None:
        super().__init__(
            f"guard {guard!r} gave no verdict within {deadline_s:g} s; raise `limits.deadline_ms` in the policy, "
            "or give the guard more capacity"
        )


class GuardConnectionError(GuardError):
    """The guard's server can't be reached, or failed while answering."""

    error_type = "connect_error"


class GuardAnswerError(GuardError):
    """The guard answered with something that is no verdict."""

    error_type = "parse_error"


class GuardContextError(GuardError):
    """The prompt is longer than the guard's context of `limit_tokens` (None: the server didn't say)."""

    error_type = "context_overflow"

    def __init__(self, said: str, limit_tokens: int | None = None) -> None:
        self.limit_tokens = limit_tokens
        super().__init__(
            f"the text is longer than the guard's context ({said}); serve the guard with a longer --max-model-len"
        )


class GuardOverloadedError(GuardError):
    """The check found no place (rate limit, concurrency) within its deadline."""

    error_type = "overloaded"


class BlockedError(GuardmwError):
    """Text was blocked, and the caller asked for an exception instead of the replacement message."""


class ApprovalError(GuardmwError, ValueError):
    """A person's answer about tool calls can't be used: `problem` says what is wrong, `mend` what to do about it."""

    def __init__(self, problem: str, mend: str) -> None:
        self.problem, self.mend = problem, mend
        super().__init__(f"the answer about tool calls can't be used: {problem}; {mend}")


class TelemetryError(GuardmwError):
    """Telemetry can't be set up: the OpenTelemetry SDK is missing, or the process has set it up already."""


class PoisonedToolError(GuardmwError):
    """The description of `tool` may not pass, and the policy says ``descriptions: refuse``."""

    def __init__(self, tool: str, policy: str, why: str) -> None:
        self.tool = tool
        super().__init__(
            f"the policy {policy!r} refuses to run with the tool {tool!r}, because of its description: {why}. Take the "
            "tool away, or write `descriptions: leave_out` under `tools` to go on without it"
        )


class UnguardedError(GuardmwError):
    """A model's answer reached the agent without having passed the guard."""
