"""Every span, attribute, event and metric name guardmw emits. These names are public API.

Sources: released ``gen_ai.*`` names are those of the OpenTelemetry GenAI semantic conventions. There is no released
convention for guardrails; the names in `PROPOSED` follow the proposal open-telemetry/semantic-conventions-genai#427
with ``guardmw.`` in place of ``gen_ai.guardrail.``. With ``gen_ai_latest_experimental`` among the values of the
environment variable ``OTEL_SEMCONV_STABILITY_OPT_IN`` they are emitted under the proposal's own prefix.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Literal, TypeVar, assert_never

from guardmw.types import Action, Decision, Surface

Value = TypeVar("Value")

SCOPE = "guardmw"
"""Name of the instrumentation scope (tracer, meter and logger)."""

TELEMETRY_VERSION = 1
"""Raised whenever a name or the meaning of a value changes; emitted as `VERSION` on the instrumentation scope."""

OPT_IN_VARIABLE = "OTEL_SEMCONV_STABILITY_OPT_IN"
OPT_IN_VALUE = "gen_ai_latest_experimental"
PREFIX = "guardmw."
PROPOSED_PREFIX = "gen_ai.guardrail."

# Spans: the operation, followed by a blank and the guard's or the agent's name.
APPLY_GUARDRAIL = "apply_guardrail"
GUARD_STREAM = "guard_stream"
CHAT = "chat"

# Attributes of released conventions.
OPERATION_NAME = "gen_ai.operation.name"
AGENT_NAME = "gen_ai.agent.name"
ERROR_TYPE = "error.type"
SPAN_KIND = "openinference.span.kind"
SPAN_KIND_GUARDRAIL = "GUARDRAIL"
SPAN_KIND_LLM = "LLM"
PROVIDER_NAME = "gen_ai.provider.name"
PROVIDER_VLLM = "vllm"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# Attributes of the proposal.
COMPONENT_NAME = "guardmw.component.name"
POLICY_ID = "guardmw.policy.id"
POLICY_VERSION = "guardmw.policy.version"
POLICY_RULE_ID = "guardmw.policy.rule.id"
SOURCE = "guardmw.source"
RESULT_TYPE = "guardmw.result.type"
RESULT_TYPE_VERDICT = "verdict"
RESULT_VALUE = "guardmw.result.value"
RESULT_REASON = "guardmw.result.reason"
RISK_CATEGORY = "guardmw.risk.category"
RISK_SCORE = "guardmw.risk.score"
CONTENT_INPUT = "guardmw.content.input.value"
CONTENT_OUTPUT = "guardmw.content.output.value"

# Attributes of our own.
VERSION = "guardmw.telemetry.version"
COMPONENT_VERSION = "guardmw.component.version"
SURFACE = "guardmw.surface"
ACTION = "guardmw.action"
MODE = "guardmw.mode"
CHECK_ID = "guardmw.check.id"
CANCELLED = "guardmw.cancelled"
CACHE_HIT = "guardmw.cache.hit"
FALLBACK = "guardmw.fallback"
ESCALATED = "guardmw.cascade.escalated"
APPROVAL = "guardmw.approval"
CONTENT_HASH = "guardmw.content.hash"
CONTENT_CHARS = "guardmw.content.chars"
TOKENS_PROMPT = "guardmw.tokens.prompt"
TOKENS_CACHED = "guardmw.tokens.cached"
TOKENS_COMPLETION = "guardmw.tokens.completion"
STREAM_ID = "guardmw.stream.id"
STREAM_OFFSET = "guardmw.stream.offset_chars"
STREAM_WINDOWS = "guardmw.stream.windows"
STREAM_CHARS_IN = "guardmw.stream.chars_in"
STREAM_CHARS_OUT = "guardmw.stream.chars_out"
STREAM_HOLD_MAX = "guardmw.stream.hold_max_s"
STREAM_FIRST_RELEASE_DELAY = "guardmw.stream.first_release_delay_s"
STREAM_TERMINATED_AT = "guardmw.stream.terminated_at_char"

# Events.
RESULT_EVENT = "guardmw.result"

# Metrics; seconds, or the unit in braces.
CHECK_DURATION = "guardmw.check.duration"
FINDINGS = "guardmw.findings"
CHECKS_ACTIVE = "guardmw.checks.active"
FALLBACKS = "guardmw.fallbacks"
FIRST_RELEASE_DELAY = "guardmw.stream.first_release_delay"
HOLD_TIME = "guardmw.stream.hold_time"
STREAM_BYPASSED = "guardmw.stream.bypassed"
CACHE_LOOKUPS = "guardmw.cache.lookups"
CASCADE_CHECKS = "guardmw.cascade.checks"

PROPOSED = frozenset(
    {
        COMPONENT_NAME,
        POLICY_ID,
        POLICY_VERSION,
        POLICY_RULE_ID,
        SOURCE,
        RESULT_TYPE,
        RESULT_VALUE,
        RESULT_REASON,
        RISK_CATEGORY,
        RISK_SCORE,
        CONTENT_INPUT,
        CONTENT_OUTPUT,
        RESULT_EVENT,
    }
)
"""The names that the opt-in moves to the proposal's prefix."""

Source = Literal["input", "output", "tool_input", "tool_output"]
"""Value of `SOURCE`: which side of the agent the text was on."""

Result = Literal["allow", "flag", "redact", "escalate", "block"]
"""Value of `RESULT_VALUE`: what the policy says. `escalate` is our action `ask`."""

Effect = Literal["allow", "redact", "interrupt", "block", "terminate_stream"]
"""Value of `ACTION`: what was really done. `interrupt` hands a tool call to a person, `terminate_stream` ends a
stream of which a part may have been shown."""

SOURCES: Mapping[Surface, Source] = {
    "input": "input",
    "output": "output",
    "reasoning": "output",
    "tool_call": "tool_input",
    "tool_result": "tool_output",
}
RESULTS: Mapping[Action, Result] = {
    "allow": "allow",
    "flag": "flag",
    "redact": "redact",
    "ask": "escalate",
    "block": "block",
}


def effect(decision: Decision) -> Effect:
    """What `decision` really does; in shadow mode always ``allow``."""
    check = decision.check
    if check.stream_id is not None and check.surface in ("output", "reasoning"):
        return stream_effect(decision.enforced)
    if decision.enforced == "ask" and check.surface == "tool_call":
        return "interrupt"
    effect = stream_effect(decision.enforced)
    return "block" if effect == "terminate_stream" else effect


def stream_effect(enforced: Action) -> Effect:
    """What `enforced` does to a stream of text: nobody can be asked in its middle, so `ask` ends it too."""
    match enforced:
        case "allow" | "flag":
            return "allow"
        case "redact":
            return "redact"
        case "ask" | "block":
            return "terminate_stream"
        case _:
            assert_never(enforced)


@cache
def opted_in() -> bool:
    """Whether the proposal's own prefix was asked for. The environment is read once, when the first name is emitted."""
    return OPT_IN_VALUE in (value.strip() for value in os.environ.get(OPT_IN_VARIABLE, "").split(","))


def emitted(name: str) -> str:
    """`name` as it leaves the process: under the proposal's prefix when it is in `PROPOSED` and the user opted in."""
    if name not in PROPOSED or not opted_in():
        return name
    return PROPOSED_PREFIX + name.removeprefix(PREFIX)


def emitted_keys(attributes: Mapping[str, Value]) -> Mapping[str, Value]:
    """`attributes` with every key as it leaves the process."""
    return {emitted(key): value for key, value in attributes.items()} if opted_in() else attributes
