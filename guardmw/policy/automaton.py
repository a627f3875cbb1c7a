"""The rules of a policy over tool calls as one automaton: a small state that steps once per call that was made.

Every sequence rule owns one bit of the state (has its first half happened?), an `at_most` rule a counter that stops at
its limit, a `taint` rule with ``match: values`` a set of fingerprints. What a tool's name means to all rules is worked
out when the name first appears, so that a decision costs the same after ten calls and after ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from guardmw.policy.arguments import Conditions
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy, SequenceRule, ToolRule, Tools
from guardmw.policy.values import Values
from guardmw.types import ToolCall

Ended = Literal["done", "hidden", "failed", "pending"]
"""How a call that was made ended: `done` the agent read its result, `hidden` its result was withheld, `failed` the
tool raised (what it did until then, it did), `pending` it stands earlier in the same message and hasn't returned."""

ENDINGS: dict[str, frozenset[Ended]] = {
    "after": frozenset({"done", "hidden", "failed", "pending"}),
    "require": frozenset({"done", "hidden"}),
    "taint": frozenset({"done", "failed"}),
}
"""Which endings count for which half of a rule: whatever may have had an effect bars what comes `after`; only what
succeeded is what another call may `require`; only what was read can `taint`."""

MAX_NAMES = 4096
MAX_POLICIES = 64


@dataclass(frozen=True, slots=True)
class State:
    """Everything the rules need to know of the calls made: a bit per sequence rule, counters, values."""

    seen: int = 0
    counts: tuple[int, ...] = ()
    values: tuple[Values, ...] = ()


@dataclass(slots=True)
class _Meaning:
    """What one tool name means to every rule; places are those of the sequence rules, slots those of the state."""

    rule: ToolRule | None
    conditions: Conditions | None
    sets: dict[Ended, int] = field(default_factory=lambda: dict.fromkeys(ENDINGS["after"], 0))
    bars: int = 0
    needs: int = 0
    counted: list[tuple[int, int, int]] = field(default_factory=list)
    taints: list[int] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)


class Automaton:
    """The compiled rules of `tools`. Immutable to its users; safe to share between threads."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._meanings: dict[str, _Meaning] = {}
        self._conditions = [Conditions(rule) if rule.conditional else None for rule in tools.rules]
        counting = [place for place, rule in enumerate(tools.sequences) if rule.at_most is not None]
        valuing = [place for place, rule in enumerate(tools.sequences) if rule.match == "values"]
        self._slots = {place: slot for places in (counting, valuing) for slot, place in enumerate(places)}
        self.start = State(0, (0,) * len(counting), (Values(),) * len(valuing))

    def step(self, state: State, call: ToolCall, ended: Ended, result: str = "") -> State:
        """The state after `call` was made and `ended` so; `result` is the text that the agent read of it."""
        meaning = self._meaning(call.name)
        seen = state.seen | meaning.sets[ended]
        counts, values = state.counts, state.values
        if meaning.counted:
            counts = _counted(counts, meaning.counted)
        if meaning.taints and result and ended in ENDINGS["taint"]:
            fresh = list(values)
            for slot in meaning.taints:
                fresh[slot] = fresh[slot].adding(result, known=call.arguments)
            values = tuple(fresh)
        if seen == state.seen and counts is state.counts and values is state.values:
            return state
        return State(seen, counts, values)

    def decide(self, state: State, call: ToolCall) -> RuleOutcome:
        """What the rules say to `call` in `state`.

        The first sequence rule that the call breaks denies, whatever else is written; then the first rule whose
        pattern matches the call's name decides, else `tools.default`. Never raises.
        """
        meaning = self._meaning(call.name)
        place = self._broken(meaning, state, call)
        if place is not None:
            return _denied(self._tools.sequences[place], call.name, self._tools)
        if meaning.rule is None:
            why = f"no rule names {call.name!r}"
            return RuleOutcome(self._tools.default, "default", why, _GO_ON, self._tools.on_block)
        return _applied(meaning.rule, meaning.conditions, call, self._tools)

    def _broken(self, meaning: _Meaning, state: State, call: ToolCall) -> int | None:
        """The place of the first sequence rule that `call` breaks."""
        broken = (meaning.bars & state.seen) | (meaning.needs & ~state.seen)
        for place, slot, limit in meaning.counted:
            if state.counts[slot] >= limit:
                broken |= 1 << place
        for place, slot in meaning.reads:
            if state.values[slot].repeated_in(call.arguments):
                broken |= 1 << place
        return (broken & -broken).bit_length() - 1 if broken else None

    def _meaning(self, name: str) -> _Meaning:
        meaning = self._meanings.get(name)
        if meaning is None:
            if len(self._meanings) >= MAX_NAMES:  # names are the model's to choose
                self._meanings.clear()
            meaning = self._meanings[name] = self._worked_out(name)
        return meaning

    def _worked_out(self, name: str) -> _Meaning:
        matching = zip(self._tools.rules, self._conditions, strict=True)
        meaning = _Meaning(*next((one for one in matching if fnmatchcase(name, one[0].tool)), (None, None)))
        for place, rule in enumerate(self._tools.sequences):
            self._learn(meaning, name, place, rule)
        return meaning

    def _learn(self, meaning: _Meaning, name: str, place: int, rule: SequenceRule) -> None:
        for half in ("after", "require", "taint"):
            if _matches(name, getattr(rule, half)):
                for ended in ENDINGS[half]:
                    meaning.sets[ended] |= 1 << place
        if _matches(name, rule.tool) and rule.at_most is not None:
            meaning.counted.append((place, self._slots[place], rule.at_most))
        if rule.match == "values":
            if _matches(name, rule.taint):
                meaning.taints.append(self._slots[place])
            if _matches(name, rule.never_into):
                meaning.reads.append((place, self._slots[place]))
        elif _matches(name, rule.never) or _matches(name, rule.never_into):
            meaning.bars |= 1 << place
        if _matches(name, rule.before):
            meaning.needs |= 1 << place


def automaton_for(policy: Policy) -> Automaton:
    """The automaton of `policy`, compiled once per content."""
    automaton = _compiled.get(policy.hash)
    if automaton is None:
        if len(_compiled) >= MAX_POLICIES:
            _compiled.clear()
        automaton = _compiled[policy.hash] = Automaton(policy.tools)
    return automaton


_compiled: dict[str, Automaton] = {}

_GO_ON = "Go on without it."


def state_after(automaton: Automaton, history: Iterable[ToolCall]) -> State:
    """The state after the calls of `history`, oldest first, all of which succeeded."""
    state = automaton.start
    for call in history:
        state = automaton.step(state, call, "done")
    return state


def _matches(name: str, pattern: str | None) -> bool:
    return pattern is not None and fnmatchcase(name, pattern)


def _counted(counts: tuple[int, ...], counted: list[tuple[int, int, int]]) -> tuple[int, ...]:
    slots = [slot for _, slot, limit in counted if counts[slot] < limit]
    if not slots:
        return counts
    return tuple(count + 1 if slot in slots else count for slot, count in enumerate(counts))


def _denied(rule: SequenceRule, name: str, tools: Tools) -> RuleOutcome:
    why, instead = _sentences(rule, name)
    return RuleOutcome("deny", f"sequence:{rule.name}", why, instead, rule.on_block or tools.on_block)


def _sentences(rule: SequenceRule, name: str) -> tuple[str, str]:
    """Why a call of `name` breaks `rule`, and what would be allowed."""
    if rule.never is not None:
        return f"{name!r} may not be called after {rule.after!r}", f"{name!r} stays closed from here on. {_GO_ON}"
    if rule.require is not None:
        why = f"{name!r} needs a call of {rule.require!r} before it"
        return why, f"Call {rule.require!r} first; when it has succeeded, {name!r} may be called."
    if rule.at_most is not None:
        times = "once" if rule.at_most == 1 else f"{rule.at_most} times"
        return f"{rule.tool!r} may be called {times} at most, and was", _GO_ON
    if rule.match == "values":
        why = f"the arguments repeat what {rule.taint!r} returned, which must not reach {name!r}"
        return why, f"Call {name!r} without that data."
    return f"what {rule.taint!r} returned must not reach {name!r}", f"{name!r} stays closed from here on. {_GO_ON}"


def _applied(rule: ToolRule, conditions: Conditions | None, call: ToolCall, tools: Tools) -> RuleOutcome:
    name, on_block = f"tool:{rule.tool}", rule.on_block or tools.on_block
    if conditions is None:
        return RuleOutcome(rule.action, name, f"the rule for {rule.tool!r} says {rule.action}", _GO_ON, on_block)
    if broken := conditions.broken_by(call.arguments):
        return RuleOutcome(rule.otherwise, name, broken.why, broken.instead, on_block)
    why = f"the arguments are as the rule for {rule.tool!r} wants them"
    return RuleOutcome(rule.action, name, why, _GO_ON, on_block)
