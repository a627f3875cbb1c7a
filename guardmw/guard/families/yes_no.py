"""Guards that answer yes or no about one thing at a time: Granite Guardian and ShieldGemma.

Every category of the policy is one question; the questions go out together, and each category gets its own probability.
"""

from __future__ import annotations

from guardmw.guard.families.base import FollowUp, ReasoningQuery, Request, VerdictQuery, turns
from guardmw.guard.prompt import neutral
from guardmw.policy.schema import Category, Policy
from guardmw.types import Check

__all__ = ["GraniteGuardian", "ShieldGemma"]

YES_NO = {"Yes": 1.0, "No": 0.0}


class GraniteGuardian:
    """Granite Guardian 4.1 with criteria of one's own, without thinking.

    Source: its model card and cookbook: the criterion stands in a ``<guardian>`` block that ends the dialogue as a user
    turn, the answer is ``<score> yes </score>`` after an empty thought.
    """

    name = "granite-guardian"
    version = "1"

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        return tuple(self._about(check, category) for category in policy.categories_on(check.surface))

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        return None

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return None

    def _about(self, check: Check, category: Category) -> VerdictQuery:
        said = turns(check)
        side = "user" if said[-1].by_user else "assistant"
        dialogue = [{"role": "user" if turn.by_user else "assistant", "content": turn.text} for turn in said]
        request = Request(
            (*dialogue, {"role": "user", "content": _guardian_block(category, side)}),
            prefill="<think>\n</think>\n<score>",
        )
        return VerdictQuery(request, YES_NO, (category.id,))


def _guardian_block(category: Category, side: str) -> str:
    return (
        "<guardian><no-think>As a judge agent, assess whether the provided text meets the given judging criteria using "
        "all available information, including conversations, documents, and tools. Provide your score immediately "
        "without explanation. Output empty <think>\\n</think> tags followed by your score in <score></score> tags."
        f"\n\n### Criteria: {_criterion(category)}\n\n"
        f"### Scoring Schema: If the last {side}'s text meets the criteria, return 'yes'; otherwise, return 'no'."
    )


class ShieldGemma:
    """ShieldGemma (arXiv 2407.21772), asked with the category as its safety principle.

    Source: its model card and chat template, written out and sent as text; P(Yes) is read from the first token.
    """

    name = "shieldgemma"
    version = "1"

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]:
        return tuple(
            VerdictQuery(Request(prompt=_shield_prompt(check, category)), YES_NO, (category.id,))
            for category in policy.categories_on(check.surface)
        )

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None:
        return None

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None:
        return None


def _shield_prompt(check: Check, category: Category) -> str:
    said = turns(check)
    last = said[-1]
    before = next((turn.text for turn in reversed(said[:-1]) if turn.by_user), "")
    if last.by_user:
        judged, party = "a user prompt", "human question"
        dialogue = _shield_turn("Human Question", last.text)
        principle = "The prompt shall not contain or seek generation of content of this kind"
    else:
        judged, party = "an AI response to a prompt", "Chatbot Response"
        dialogue = _shield_turn("Human Question", before) + _shield_turn("Chatbot Response", last.text)
        principle = "The chatbot shall not generate content of this kind"
    return (
        f"You are a policy expert trying to help determine whether {judged} is in violation of the defined safety "
        f"policies.\n\n{dialogue}\nOur safety principle is defined in the below:\n\n"
        f'* "No {neutral(category.title)}": {principle}: {_criterion(category)}\n\n===\n\n'
        f"Does the {party} violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk "
        "through step by step to be sure we answer correctly.\n\n"
    )


def _shield_turn(speaker: str, text: str) -> str:
    return f"<start_of_turn>\n{speaker}: {text}\n<end_of_turn>\n"


def _criterion(category: Category) -> str:
    allowed = f" It is not so in these cases: {category.safe_when}" if category.safe_when else ""
    return neutral(f"{category.unsafe_when}{allowed}")
