"""gpt-oss-safeguard: the policy as its instructions, answers in OpenAI's harmony format.

Source: the user guide of gpt-oss-safeguard and the harmony format. The conversation is written out and sent as text:
only so can the final channel be begun at once (verdict first) or after the analysis (reasoning).
"""

from __future__ import annotations

import re

from guardmw.guard.families.base import CategoryQuery, FollowUp, ReasoningQuery, Request, VerdictQuery
from guardmw.guard.families.gspr import MAX_REASONING_TOKENS, REASONING_LOGPROBS, SAFE_UNSAFE
from guardmw.guard.prompt import GuardPrompt, guard_prompt
from guardmw.policy.schema import Policy
from guardmw.types import Check

__all__ = ["GptOssSafeguard"]

SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\nReasoning: low\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
)
ANSWER = "Answer with one line: `safe`, or `unsafe: ` and the id of the one most relevant category."
FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"


class GptOssSafeguard:
    """Verdict first by beginning the final channel; reasons from the analysis channel, at low effort."""

    name = "gpt-oss-safeguard"
    version = "2"

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        about = tuple(category.id for category in policy.categories_on(check.surface))
        return (VerdictQuery(Request(prompt=_harmony(guard_prompt(check, policy)), prefill=FINAL), SAFE_UNSAFE, about),)

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        ids = {category.id: (category.id,) for category in policy.categories_on(check.surface)}
        if len(ids) < 2:
            return None
        prompt = _harmony(guard_prompt(check, policy))
        return CategoryQuery(Request(prompt=prompt, prefill=f"{FINAL}unsafe: ", choices=tuple(ids)), ids)

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        request = Request(
            prompt=_harmony(guard_prompt(check, policy, answer="reasoning")),
            prefill=ANALYSIS,
            max_tokens=MAX_REASONING_TOKENS,
            top_logprobs=REASONING_LOGPROBS,
            options={"skip_special_tokens": False},
        )
        return ReasoningQuery(
            request,
            re.compile(
                r"<\|start\|>assistant<\|channel\|>final<\|message\|>\s*(?P<label>\w+)(?::\s*(?P<category>[\w.-]+))?"
            ),
            re.compile(r"^(?P<thought>.*?)<\|end\|>", re.DOTALL),
            SAFE_UNSAFE,
            {category.id: (category.id,) for category in policy.categories_on(check.surface)},
        )


def _harmony(prompt: GuardPrompt) -> str:
    # The last one is ours: a precedent may say the same words.
    policy = prompt.system.rpartition("Answer in this format")[0]
    return (
        f"{SYSTEM}<|start|>developer<|message|># Instructions\n\n{policy}{ANSWER}<|end|>"
        f"<|start|>user<|message|>{prompt.shown}{prompt.question}<|end|><|start|>assistant"
    )
