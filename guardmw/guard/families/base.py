"""What a family of guard models is: which questions it is asked, in its own template, and what its labels mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from guardmw.guard.prompt import neutral
from guardmw.policy.schema import Category, Policy
from guardmw.types import Check

__all__ = ["CategoryQuery", "Family", "FollowUp", "ReasoningQuery", "Request", "Turn", "VerdictQuery", "only", "turns"]

TOP_LOGPROBS = 20
"""How many alternatives a server is asked for: the most vLLM gives unless started with ``--max-logprobs``."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call to the server: chat `messages` where there are any, else a raw `prompt`.

    `prefill` is how the guard's turn begins; the server continues it. With `choices` only these answers can come.
    `options` are further fields of the body. `classify` asks a classifier on the pooling runner about `prompt`.
    """

    messages: tuple[Mapping[str, str], ...] = ()
    prompt: str = ""
    prefill: str = ""
    choices: tuple[str, ...] = ()
    max_tokens: int = 1
    top_logprobs: int = TOP_LOGPROBS
    options: Mapping[str, Any] = field(default_factory=dict)
    classify: bool = False

    @property
    def path(self) -> str:
        if self.classify:
            return "/classify"
        return "/v1/chat/completions" if self.messages else "/v1/completions"

    @property
    def can_continue(self) -> bool:
        """Whether the guard's turn can be begun for it; some chat templates have no place for that."""
        return not self.classify and (not self.messages or bool(self.prefill))

    def continued(self, text: str) -> Request:
        """The same question with `text` already answered."""
        rests = tuple(choice[len(text) :] for choice in self.choices if choice.startswith(text))
        return replace(self, prefill=self.prefill + text, choices=rests if all(rests) else ())

    def body(self) -> dict[str, Any]:
        """The JSON body, but for what the client adds (model, salt, priority)."""
        if self.classify:
            return {"input": self.prompt}
        body: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": 0.0, **self.options}
        if self.choices:
            body["structured_outputs"] = {"choice": list(self.choices)}
        return body | (self._chat() if self.messages else self._completion())

    def tokenize_body(self) -> dict[str, Any]:
        """What ``/tokenize`` is asked to learn how long this prompt is."""
        if not self.messages:
            return {"prompt": self.prompt + self.prefill}
        turn = {"messages": [*self.messages, *self._turn()]}
        return turn | self._continuation()

    def _chat(self) -> dict[str, Any]:
        asked = {"messages": [*self.messages, *self._turn()], "logprobs": True, "top_logprobs": self.top_logprobs}
        return asked | self._continuation()

    def _completion(self) -> dict[str, Any]:
        return {"prompt": self.prompt + self.prefill, "logprobs": self.top_logprobs}

    def _turn(self) -> list[Mapping[str, str]]:
        return [{"role": "assistant", "content": self.prefill}] if self.prefill else []

    def _continuation(self) -> dict[str, Any]:
        return {"add_generation_prompt": False, "continue_final_message": True} if self.prefill else {}


@dataclass(frozen=True, slots=True)
class VerdictQuery:
    """Asks whether the text is unsafe. `labels` says how unsafe each answer is, 0 to 1; `about` names the categories
    it is asked about. `categories` (label to categories) is given where the label itself tells the category. With
    `may_ignore` an unsafe text may be so in a way that the policy has no category for."""

    request: Request
    labels: Mapping[str, float]
    about: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    may_ignore: bool = False

    @property
    def leaves_open(self) -> bool:
        """Whether the answer alone doesn't tell which of `about` an unsafe text falls into."""
        return not self.categories and (len(self.about) > 1 or self.may_ignore)


@dataclass(frozen=True, slots=True)
class CategoryQuery:
    """Asks which category an unsafe text falls into: the policy's categories that each answer stands for. As far as
    it falls to one of the `ignored` answers, it counts as safe."""

    request: Request
    categories: Mapping[str, tuple[str, ...]]
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ReasoningQuery:
    """Asks for reasons and a verdict. `answer` finds the verdict in the guard's text: its group ``label`` is one of
    `labels`, its group ``category``, where there is one, a key of `categories`. `thought` matches from the text's
    beginning to the end of the reasons (its group ``thought``), and only when they do end."""

    request: Request
    answer: re.Pattern[str]
    thought: re.Pattern[str]
    labels: Mapping[str, float]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


FollowUp = CategoryQuery | tuple[VerdictQuery, ...]
"""How the category of an unsafe text is found: by one question, or by asking about every category on its own."""


class Family(Protocol):
    """Guards that speak alike. `version` changes whenever a template or the meaning of a label does.

    `verdicts` are asked at once, together they cover every category on the check's surface. `follow_up` is asked when
    the text may be unsafe and one verdict covers several categories; `reasoning` when reasons are wanted. The latter
    two are None where the family has no such thing.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def verdicts(self, check: Check, policy: Policy) -> tuple[VerdictQuery, ...]: ...

    def follow_up(self, check: Check, policy: Policy) -> FollowUp | None: ...

    def reasoning(self, check: Check, policy: Policy) -> ReasoningQuery | None: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the dialogue as guards of users and assistants know it; `text` is neutral already."""

    by_user: bool
    text: str


_BY_USER = frozenset({"user", "system", "tool"})


def turns(check: Check) -> list[Turn]:
    """The conversation with the text under review as its last turn, neighbours of one side made one turn.

    What a tool returned counts as said to the agent; the agent's system prompt is left out.
    """
    said = [
        Turn(message.role in _BY_USER, neutral(message.content))
        for message in check.conversation
        if message.role != "system"
    ]
    said.append(Turn(check.surface in ("input", "tool_result"), neutral(check.content)))
    return _alternating(said)


def _alternating(said: Sequence[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in said:
        if merged and merged[-1].by_user == turn.by_user:
            merged[-1] = Turn(turn.by_user, f"{merged[-1].text}\n\n{turn.text}")
        else:
            merged.append(turn)
    return merged


def only(policy: Policy, category: Category) -> Policy:
    """A policy of `category` alone, for guards that judge one thing at a time."""
    return Policy(id=policy.id, categories=(category,))
