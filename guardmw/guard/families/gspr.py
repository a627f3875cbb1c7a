"""Policy reasoners in the formats of GSPR (arXiv 2509.24418) and RSafe (arXiv 2506.07736)."""

from __future__ import annotations

import re

from guardmw.guard.families.base import (
    CategoryQuery,
    FollowUp,
    ReasoningQuery,
    Request,
    VerdictQuery,
    only,
)
from guardmw.guard.prompt import (
    CATEGORY_PREFILL,
    NOT_APPLICABLE,
    VERDICT_PREFILL,
    GuardPrompt,
    guard_prompt,
)
from guardmw.policy.schema import Policy
from guardmw.types import Check

__all__ = ["MAX_REASONING_TOKENS", "Gspr", "RSafe"]

SAFE_UNSAFE = {"safe": 0.0, "unsafe": 1.0}
MAX_REASONING_TOKENS = 512
"""GSPR's answers have 34 to 78 words; its limit was 1,024 tokens."""
REASONING_LOGPROBS = 5
"""Fewer than for a verdict: they come for every token of the reasons, and the label is among the first."""

_THOUGHT = re.compile(r"(?:.*?<think>)?(?P<thought>.*)</think>(?!.*<think>)", re.DOTALL)
"""Up to the last end of a thought; templates may have opened it in the prompt."""


class Gspr:
    """Any guard that follows `guardmw.guard.prompt`: verdict first, then the category; reasons when asked for."""

    name = "gspr"
    version = "1"

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        prompt = guard_prompt(check, policy)
        about = tuple(category.id for category in policy.categories_on(check.surface))
        # Without `choices`: what the guard would say freely tells whether it is a guard of this kind at all.
        return (VerdictQuery(Request(_messages(prompt), prefill=VERDICT_PREFILL), SAFE_UNSAFE, about),)

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        categories = _own_names(check, policy)
        if len(categories) < 2:
            return None
        request = Request(
            _messages(guard_prompt(check, policy)), prefill=CATEGORY_PREFILL, choices=(*categories, NOT_APPLICABLE)
        )
        return CategoryQuery(request, {**categories, NOT_APPLICABLE: ()})

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return ReasoningQuery(
            _reasoning_request(guard_prompt(check, policy, answer="reasoning")),
            re.compile(r"\\safety\{\s*(?P<label>\w+)\s*\}\s*\\category\{\s*(?P<category>[^{}]*?)\s*\}"),
            _THOUGHT,
            SAFE_UNSAFE,
            {**_own_names(check, policy), NOT_APPLICABLE: ()},
        )


class RSafe:
    r"""RSafe's ``\boxed{safe|unsafe}``. It names no category, so each is asked about when the text may be unsafe."""

    name = "rsafe"
    version = "1"
    prefill = "\\boxed{"

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        about = tuple(category.id for category in policy.categories_on(check.surface))
        request = Request(_messages(_boxed(guard_prompt(check, policy))), prefill=self.prefill)
        return (VerdictQuery(request, SAFE_UNSAFE, about),)

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        categories = policy.categories_on(check.surface)
        if len(categories) < 2:
            return None
        return tuple(query for category in categories for query in self.verdicts(check, only(policy, category)))

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return ReasoningQuery(
            _reasoning_request(_boxed(guard_prompt(check, policy, answer="reasoning"))),
            re.compile(r"\\boxed\{\s*(?P<label>\w+)\s*\}"),
            _THOUGHT,
            SAFE_UNSAFE,
        )


def _messages(prompt: GuardPrompt) -> tuple[dict[str, str], ...]:
    return tuple(prompt.messages())


def _own_names(check: Check, policy: Policy) -> dict[str, tuple[str, ...]]:
    return {category.id: (category.id,) for category in policy.categories_on(check.surface)}


def _reasoning_request(prompt: GuardPrompt) -> Request:
    # No prefill: templates that open the thought themselves (Qwen3) would open it twice.
    return Request(_messages(prompt), max_tokens=MAX_REASONING_TOKENS, top_logprobs=REASONING_LOGPROBS)


_GSPR_LABELS = re.compile(r"\\safety\{safe\|unsafe\}\\category\{[^\n]*\}")


def _boxed(prompt: GuardPrompt) -> GuardPrompt:
    """`prompt` with RSafe's answer in place of GSPR's."""
    head, sep, tail = prompt.system.rpartition("<END UNSAFE CONTENT CATEGORIES>")
    boxed = _GSPR_LABELS.sub(lambda _: r"\boxed{safe|unsafe}", tail)
    return GuardPrompt(head + sep + boxed, prompt.shown, prompt.question)
