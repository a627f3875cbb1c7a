"""From a server's answer to probabilities. What can't be understood is a GuardAnswerError, never "safe"."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guardmw.errors import GuardAnswerError
from guardmw.guard.families.base import ReasoningQuery
from guardmw.policy.schema import Policy
from guardmw.types import Finding

__all__ = [
    "Position",
    "Reading",
    "Reasoned",
    "at_character",
    "in_band",
    "parse_reasoning",
    "positions_of",
    "read",
    "relative_shares",
    "unsafe_logit",
]

MIN_COVERAGE = 0.5
"""A guard that puts less than this on its labels is another kind of guard than it was said to be."""
MAX_UNRESOLVED = 0.1
"""Most probability that may stay with beginnings which several labels share."""
FLOOR = 1e-9
_END = re.compile("(?:\\s|</s>|<eos>|<end_of_turn>|<[|\uff5c][^<>\\s]{1,40}[|\uff5c]>)*\\Z")
"""What may stand behind a verdict: nothing that a guard still had to say."""


@dataclass(frozen=True, slots=True)
class Position:
    """One decoded place: the token that was taken, and the alternatives with their probabilities."""

    taken: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(slots=True)
class Reading:
    """Probability per label (`mass`), and of beginnings that several labels share (`open`, longest known text first).

    `floor` bounds the probability of what the server didn't list.
    """

    mass: dict[str, float]
    floor: float = FLOOR
    open: list[tuple[str, float]] = field(default_factory=list)

    def add(self, other: Reading, weight: float) -> None:
        """Take `other`, the reading of what follows one of the open beginnings, with the weight of that one."""
        covered = sum(other.mass.values()) + sum(mass for _, mass in other.open)
        if covered <= 0:
            return
        for label, mass in other.mass.items():
            self.mass[label] += weight * mass / covered
        self.open += [(text, weight * mass / covered) for text, mass in other.open]
        self.floor = max(self.floor, weight * min(1.0, other.floor / covered))

    def checked(self, guard: str) -> Reading:
        """The reading itself when it says enough. Raises GuardAnswerError when the labels are hardly covered, or when
        one that isn't listed may hold much."""
        if self.floor > MAX_UNRESOLVED and min(self.mass.values()) < self.floor:
            raise GuardAnswerError(
                f"guard {guard!r} may put up to {self.floor:.0%} on a label that its server's logprobs don't list; the "
                "server must give the `top_logprobs` it is asked for (vLLM: leave --max-logprobs at 20 or more)"
            )
        unresolved = sum(mass for _, mass in self.open)
        covered = sum(self.mass.values())
        if covered + unresolved < MIN_COVERAGE:
            raise GuardAnswerError(
                f"guard {guard!r} puts only {covered:.1%} on its labels ({', '.join(self.mass)}): the server's model, "
                "tokenizer or chat template is not of this family; name another `family` or serve the right model"
            )
        if unresolved > MAX_UNRESOLVED * (covered + unresolved):
            raise GuardAnswerError(f"guard {guard!r} leaves {unresolved:.1%} with no label in particular")
        return self


def positions_of(choice: Mapping[str, Any], *, chat: bool) -> tuple[Position, ...]:
    """The decoded places of an OpenAI-style `choice`. Raises GuardAnswerError when its logprobs are missing or odd."""
    logprobs = choice.get("logprobs")
    try:
        listed = _chat_positions(logprobs) if chat else _completion_positions(logprobs)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GuardAnswerError(
            f"the guard's answer has no usable logprobs ({error!r}); the server must allow `logprobs` "
            "(vLLM: leave --max-logprobs at 20 or more)"
        ) from error
    if not listed or not all(position.alternatives for position in listed):
        raise GuardAnswerError("the guard's answer has empty logprobs; nothing was decoded")
    return listed


def _chat_positions(logprobs: Any) -> tuple[Position, ...]:
    return tuple(
        Position(_text(place["token"]), _alternatives((each["token"], each["logprob"]) for each in _listed(place)))
        for place in logprobs["content"]
    )


def _listed(place: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return place.get("top_logprobs") or [place]


def _completion_positions(logprobs: Any) -> tuple[Position, ...]:
    tops = logprobs["top_logprobs"]
    return tuple(Position(_text(token), _alternatives(tops[at].items())) for at, token in enumerate(logprobs["tokens"]))


def _alternatives(pairs: Iterable[tuple[Any, Any]]) -> tuple[tuple[str, float], ...]:
    return tuple((_text(token), _probability(logprob)) for token, logprob in pairs)


def _text(token: Any) -> str:
    if not isinstance(token, str):
        raise TypeError(f"a token is {type(token).__name__}, not text")
    return token


def _probability(logprob: Any) -> float:
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or math.isnan(logprob) or logprob > 0.01:
        raise ValueError(f"a logprob is {logprob!r}")
    return min(1.0, math.exp(logprob))


def read(positions: Sequence[Position], labels: Iterable[str], begun: str = "") -> Reading:
    """How likely each of `labels` is at the first of `positions`, where the answer has `begun` already.

    A token that begins one label only counts for it; one that begins several is followed along the decoded path, and
    stays open where that took another way. Case and leading space don't matter; tokens of no label count for none.
    """
    first, names = positions[0], {label.casefold(): label for label in labels}
    reading = Reading(dict.fromkeys(names.values(), 0.0), _floor(first))
    for token, probability in first.alternatives:
        text = begun + token
        match _meaning(text, names):
            case str() as label:
                reading.mass[label] += probability
            case True if token == first.taken and len(positions) > 1 and probability > 0:
                reading.add(read(positions[1:], labels, text), probability)
            case True:
                reading.open.append((text, probability))
    return reading


def _floor(position: Position) -> float:
    """The most that a token can have which isn't listed: no more than the least listed one, nor than what is left."""
    listed = [probability for _, probability in position.alternatives]
    return max(FLOOR, min(*listed, 1 - sum(listed)))


def _meaning(text: str, names: Mapping[str, str]) -> str | bool:
    """The label that `text` is or can only become; True when it may become several, False when none."""
    said = text.lstrip().casefold()
    if not said:
        return True
    becoming = [name for name in names if name.startswith(said)]
    if len(becoming) == 1:
        return names[becoming[0]]
    if becoming:
        return True
    spoken = [name for name in names if said.startswith(name) and not _goes_on(said[len(name)])]
    return names[max(spoken, key=len)] if spoken else False


def _goes_on(char: str) -> bool:
    return char.isalnum() or char == "_"


def unsafe_logit(reading: Reading, labels: Mapping[str, float]) -> float:
    """The logit of the unsafe share of `reading`; `labels` says how unsafe each label is."""
    unsafe = sum(reading.mass[label] * weight for label, weight in labels.items())
    safe = sum(reading.mass[label] * (1 - weight) for label, weight in labels.items())
    return math.log(max(unsafe, reading.floor)) - math.log(max(safe, reading.floor))


def relative_shares(
    mass: Mapping[str, float],
    categories: Mapping[str, Sequence[str]],
    about: Sequence[str],
    ignored: Collection[str] = (),
) -> dict[str, float]:
    """For each category of `about` its share in [0, 1], the likeliest one's being 1, less what `ignored` labels hold.

    The likeliest category thus carries the whole probability of the text being unsafe: a verdict that hesitates
    between two categories isn't lost between them. When no label tells a category, every one gets it.
    """
    kept = _share_outside(mass, ignored)
    shares = dict.fromkeys(about, 0.0)
    for label, share in mass.items():
        for category in categories.get(label, ()):
            shares[category] = shares.get(category, 0.0) + share
    highest = max(shares.values(), default=0.0)
    if highest <= 0:
        return dict.fromkeys(about, kept)
    return {category: kept * share / highest for category, share in shares.items()}


def _share_outside(mass: Mapping[str, float], ignored: Collection[str]) -> float:
    total = sum(mass.values())
    return 1 - sum(mass[label] for label in ignored) / total if ignored and total > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Reasoned:
    """What came out of reasoning: the label, the policy's categories that it named, and the reasons."""

    label: str
    categories: tuple[str, ...]
    reasons: str


def parse_reasoning(text: str, query: ReasoningQuery, thought: str = "") -> Reasoned:
    """The verdict that `text` ends with, behind a closed thought; `thought` is what the server separated from it.

    Raises GuardAnswerError when there is none: cut off, garbled, or of another format.
    """
    reasons = query.thought.match(text)
    if reasons is None and not thought.strip():
        raise GuardAnswerError(f"the guard's reasoning has no thought that ends: …{text[-120:]!r}")
    found = _last(query.answer, text, reasons.end() if reasons else 0)
    label = _known(found.group("label"), query.labels) if found else None
    if found is None or label is None:
        raise GuardAnswerError(f"the guard's reasoning ends without a verdict: …{text[-120:]!r}")
    named = found.groupdict().get("category")
    category = _known(named.strip(), query.categories) if named else None
    said = (reasons.group("thought") if reasons else thought).strip()
    return Reasoned(label, query.categories[category] if category else (), said)


def _last(answer: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """Where `answer` closes `text`; None when more is said behind it: then it was quoted, not given."""
    found = next(reversed(list(answer.finditer(text, start))), None)
    return found if found and _END.match(text, found.end()) else None


def _known(said: str, names: Iterable[str]) -> str | None:
    wanted = re.sub(r"[\s_-]+", " ", said).casefold()
    return next((name for name in names if re.sub(r"[\s_-]+", " ", name).casefold() == wanted), None)


def at_character(positions: Sequence[Position], answer: re.Pattern[str]) -> tuple[Position, ...]:
    """The decoded places from the label of the closing `answer` on; the first begins with the label itself.

    Raises GuardAnswerError when the decoded tokens don't end with such an answer.
    """
    spelled = "".join(position.taken for position in positions)
    found = _last(answer, spelled)
    if found is None:
        raise GuardAnswerError("the tokens of the guard's reasoning don't spell its verdict")
    start, passed = found.start("label"), 0
    for place, position in enumerate(positions):
        if passed + len(position.taken) > start:
            return (_without(position, start - passed), *positions[place + 1 :])
        passed += len(position.taken)
    raise GuardAnswerError("the guard's reasoning ends before its verdict")


def _without(position: Position, chars: int) -> Position:
    """`position` without the first `chars` characters of its token, and of the alternatives that share them."""
    head = position.taken[:chars]
    return Position(
        position.taken[chars:],
        tuple((token.removeprefix(head), probability) for token, probability in position.alternatives),
    )


def in_band(findings: Iterable[Finding], policy: Policy, margin_logits: float) -> bool:
    """Whether a finding lies in its category's uncertain band, widened by `margin_logits` on both sides."""
    return any(_near(finding, policy, margin_logits) for finding in findings)


def _near(finding: Finding, policy: Policy, margin_logits: float) -> bool:
    ask, act = policy.thresholds(policy.category(finding.category))
    logit = _logit(finding.probability)
    return _logit(ask) - margin_logits < logit <= _logit(act) + margin_logits


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))
