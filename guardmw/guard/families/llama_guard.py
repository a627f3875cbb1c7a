"""Llama Guard 3 and 4: the policy's categories take the place of Meta's hazards, in the published prompt.

Source: the model cards and prompt formats of Llama Guard 3 and 4. The prompt is written out and sent as text, because
the chat templates of the models list Meta's own categories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from guardmw.guard.families.base import CategoryQuery, FollowUp, ReasoningQuery, Request, Turn, VerdictQuery, turns
from guardmw.guard.prompt import neutral
from guardmw.policy.schema import Category, Policy
from guardmw.types import Check

__all__ = ["LLAMA_GUARD_3", "LLAMA_GUARD_4", "LlamaGuard"]

LEADING_NEWLINES = 3
"""Tokens decoded for the verdict: the models begin with blank lines."""

_SPEAKER = re.compile(r"(?<![^\W_])(?:User|Agent)(?=[:\uff1a])", re.IGNORECASE)
"""A name and a colon are all that parts turns; wherever they stand, for not only a newline looks like one."""


@dataclass(frozen=True, slots=True)
class LlamaGuard:
    """Llama Guard with the tokens of its generation; ``<|begin_of_text|>`` is added by the server's tokenizer."""

    name: str
    header_start: str
    header_end: str
    end_of_turn: str
    version: str = "2"

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        about = tuple(category.id for category in policy.categories_on(check.surface))
        request = Request(prompt=self._prompt(check, policy), max_tokens=LEADING_NEWLINES)
        return (VerdictQuery(request, {"safe": 0.0, "unsafe": 1.0}, about),)

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        categories = policy.categories_on(check.surface)
        if len(categories) < 2:
            return None
        codes = {code: (category.id,) for code, category in _coded(categories)}
        request = Request(prompt=self._prompt(check, policy), prefill="unsafe\n", choices=tuple(codes))
        return CategoryQuery(request, codes)

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return None

    def _prompt(self, check: Check, policy: Policy) -> str:
        said = turns(check)
        role = "User" if said[-1].by_user else "Agent"
        listed = "\n".join(f"{code}: {_described(each)}" for code, each in _coded(policy.categories_on(check.surface)))
        dialogue = "\n\n".join(f"{'User' if turn.by_user else 'Agent'}: {_said(turn)}" for turn in said)
        return (
            f"{self.header_start}user{self.header_end}\n\n"
            f"Task: Check if there is unsafe content in '{role}' messages in conversations according our safety policy "
            "with the below categories.\n\n"
            f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{listed}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
            f"<BEGIN CONVERSATION>\n\n{dialogue}\n\n<END CONVERSATION>\n\n"
            f"Provide your safety assessment for ONLY THE LAST {role} message in the above conversation:\n"
            " - First line must read 'safe' or 'unsafe'.\n"
            " - If unsafe, a second line must include a comma-separated list of violated categories."
            f"{self.end_of_turn}{self.header_start}assistant{self.header_end}\n\n"
        )


def _said(turn: Turn) -> str:
    """The text of `turn`, unable to begin another one; a prefix of the text gives a prefix of this."""
    return _SPEAKER.sub(lambda name: f"{name[0]} ", turn.text)


def _coded(categories: tuple[Category, ...]) -> list[tuple[str, Category]]:
    return [(f"S{number}", category) for number, category in enumerate(categories, 1)]


def _described(category: Category) -> str:
    allowed = f"\nNot unsafe: {category.safe_when}" if category.safe_when else ""
    return neutral(f"{category.title}.\n{category.unsafe_when}{allowed}")


LLAMA_GUARD_3 = LlamaGuard("llama-guard-3", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA_GUARD_4 = LlamaGuard("llama-guard-4", "<|header_start|>", "<|header_end|>", "<|eot|>")
