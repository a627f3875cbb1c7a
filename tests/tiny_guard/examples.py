"""What the tiny guard learns and is tested on: prompts exactly as guardmw sends them, and the answers it should give.

Texts are put together from the templates in corpus.yaml; the last fifth of every list is kept for the test. The same
seed gives the same examples. Examples come in groups that share the system message, which a trainer can compute once.
The first groups may be bare: they lack that message, which makes the first lessons short.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from guardmw.guard.prompt import CATEGORY_PREFILL, VERDICT_PREFILL, answer_text, guard_prompt
from guardmw.policy.load import load_policies
from guardmw.policy.schema import Policy
from guardmw.types import Check, Message, Surface

FOLDER = Path(__file__).parent
GROUP_SIZE = 16
REASONING_EVERY = 3
SURFACES: tuple[Surface, ...] = ("output", "output", "output", "input", "tool_call")
LETTERS = "bcdfghjklmnpqrstvwxz"
MAX_BENIGN = 2
BENIGN_SHARE, NEAR_SHARE = 0.35, 0.25
CATEGORY_SHARE = 0.3
KEPT_SHARE = 5
SALAD_SHARE = 0.6
SIGN_SHARE = 0.6
SERVED_EVERY = 7
SYLLABLES = [consonant + vowel for consonant in LETTERS for vowel in "aeiou"]

Split = Literal["train", "test"]
Kind = Literal["verdict", "category", "reasoning"]


@dataclass(frozen=True)
class Example:
    """`messages` in, `answer` out (it continues the last message where that is the assistant's).

    `category` is None when the text is safe; `group` counts the groups of examples that share a system message.
    """

    group: int
    kind: Kind
    messages: list[dict[str, str]]
    answer: str
    category: str | None


@dataclass(frozen=True)
class Text:
    """A text under review. `category` is what it violates, `near` what it only resembles."""

    content: str
    category: str | None = None
    near: str | None = None


def tiny_policy() -> Policy:
    return load_policies(FOLDER / "policy.yaml").policies["tiny"]


def served_policy() -> Policy:
    """A policy as users have them, ten times as long: the one that the demo is played under."""
    return load_policies("support").policies["support"]


def examples(split: Split, groups: int, bare_groups: int = 0, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`groups` times GROUP_SIZE examples of `split`, as JSON-ready dicts; the first `bare_groups` without a policy,
    every SERVED_EVERY-th of the others under the long one."""
    rng = random.Random(f"{split} {seed}")
    writer, served = Writer(split, rng), Writer(split, rng, served_policy())
    for group in range(groups):
        if group >= bare_groups and group % SERVED_EVERY == 0:
            made = served.group(group, surfaces=(rng.choice(SURFACES),), reasoning=False)
        else:
            made = writer.group(group, bare=group < bare_groups, reasoning=group % REASONING_EVERY == 0)
        yield from map(asdict, made)


def lesson(allowed: str, groups: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Verdicts as of a policy under which texts of the category `allowed` are safe: what an adapter learns."""
    writer = Writer("train", random.Random(f"lesson {seed}"))
    for group in range(groups):
        for example in writer.group(group):
            if example.kind == "verdict":
                pardon = answer_text(None).removeprefix(VERDICT_PREFILL)
                yield asdict(replace(example, answer=pardon) if example.category == allowed else example)


def kept(pool: Sequence[str]) -> int:
    """How many templates at the end of `pool` are kept for the test."""
    return max(1, len(pool) // KEPT_SHARE)


def harmless_words(corpus: dict[str, Any]) -> list[str]:
    """The words of the safe sentences to learn from and of the slots, sorted: what is near to a category is told by
    words of its own."""
    texts = [text for pool in (corpus["safe"], corpus["ask_safe"]) for text in pool[: -kept(pool)]]
    texts += [text for values in corpus["slots"].values() for text in values]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", text))})


class Writer:
    """Writes examples of one split, in the order its random numbers give."""

    def __init__(self, split: Split, rng: random.Random, policy: Policy | None = None) -> None:
        self._split, self._rng = split, rng
        self._corpus = yaml.safe_load((FOLDER / "corpus.yaml").read_text())
        self._policy = policy or tiny_policy()
        self._words = harmless_words(self._corpus)

    def group(
        self, number: int, *, bare: bool = False, reasoning: bool = False, surfaces: tuple[Surface, ...] = SURFACES
    ) -> Iterator[Example]:
        for _ in range(GROUP_SIZE):
            example = self._example(number, reasoning, self._rng.choice(surfaces))
            yield replace(example, messages=example.messages[1:]) if bare else example

    def text(self, surface: Surface = "output") -> Text:
        """A text of one to MAX_BENIGN + 1 sentences; one of them may violate or resemble a category."""
        asked = surface == "input"
        chance = self._rng.random()
        if chance < BENIGN_SHARE:
            return Text(self._benign(self._rng.randint(1, MAX_BENIGN), asked))
        theme = self._rng.choice([
            category.id for category in self._policy.categories_on(surface) if category.id in self._corpus["themes"]
        ])  # fmt: skip
        kinds = self._corpus["themes"][theme]
        if chance < BENIGN_SHARE + NEAR_SHARE:
            return Text(self._among(self._fill(kinds["near"]), asked), near=theme)
        return Text(self._among(self._unsafe(kinds, asked), asked), category=theme)

    def _example(self, group: int, reasoning: bool, surface: Surface) -> Example:
        text = self.text(surface)
        kind: Kind = "verdict"
        if reasoning:
            kind = "reasoning"
        elif text.category and self._rng.random() < CATEGORY_SHARE:
            kind = "category"
        prompt = guard_prompt(
            Check(surface, text.content, conversation=self._conversation(surface)),
            self._policy,
            answer="reasoning" if kind == "reasoning" else "verdict",
            nonce="".join(self._rng.choices(LETTERS, k=6)),
        )
        prefill = {"verdict": VERDICT_PREFILL, "category": CATEGORY_PREFILL, "reasoning": ""}[kind]
        reasons = self._reasons(text) if kind == "reasoning" else None
        answer = answer_text(text.category, reasons).removeprefix(prefill)
        return Example(group, kind, prompt.messages(prefill), answer, text.category)

    def _conversation(self, surface: Surface) -> tuple[Message, ...]:
        if surface == "input" or self._rng.random() < 0.3:
            return ()
        return (Message("user", self._fill(self._corpus["ask_safe"])),)

    def _reasons(self, text: Text) -> str:
        if text.category:
            broken = self._policy.category(text.category)
            return f"{broken.title}: yes. {broken.unsafe_when}"
        if text.near:
            touched = self._policy.category(text.near)
            return f"{touched.title}: no. {touched.safe_when}"
        return "No category of the policy is touched."

    def _among(self, sentence: str, asked: bool) -> str:
        sentences = [self._benign(1, asked) for _ in range(self._rng.choice((0, 0, 1, MAX_BENIGN)))]
        sentences.insert(self._rng.randint(0, len(sentences)), sentence)
        return " ".join(sentences)

    def _unsafe(self, kinds: dict[str, list[str]], asked: bool) -> str:
        if self._split == "train" and self._rng.random() < SIGN_SHARE:
            return self._salad(self._filled(self._rng.choice(kinds["signs"])))
        return self._fill(kinds["asks" if asked else "unsafe"])

    def _benign(self, count: int, asked: bool) -> str:
        pool = self._corpus["ask_safe" if asked else "safe"]
        return " ".join(self._salad() if self._rng.random() < SALAD_SHARE else self._fill(pool) for _ in range(count))

    def _salad(self, sign: str = "") -> str:
        """Harmless words and invented ones in any order, `sign` among them: else a model learns sentences by heart."""
        words = [self._rng.choice(self._words) for _ in range(self._rng.randint(3, 10))]
        invented = ["".join(self._rng.choices(SYLLABLES, k=self._rng.randint(1, 3))) for _ in range(3)]
        mixed = self._rng.sample(words + invented, k=self._rng.randint(3, len(words)))
        mixed.insert(self._rng.randint(0, len(mixed)), sign)
        sentence = " ".join(filter(None, mixed))
        return sentence[0].upper() + sentence[1:] + self._rng.choice(".?!")

    def _fill(self, pool: Sequence[str]) -> str:
        template = self._rng.choice(pool[: -kept(pool)] if self._split == "train" else pool[-kept(pool) :])
        sentence = self._filled(template)
        return sentence[0].upper() + sentence[1:]

    def _filled(self, template: str) -> str:
        return template.format(**{name: self._rng.choice(values) for name, values in self._corpus["slots"].items()})
