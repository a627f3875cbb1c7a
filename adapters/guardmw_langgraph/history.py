"""The calls that were made in a conversation, read from its messages and folded into what the rules need to know.

Nothing is kept but what the messages say, so that restarts, retries, forks and time travel all see the history of the
branch they are on. What was read once is remembered per list of messages, and compared before it is used again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TypeVar

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from guardmw.policy.automaton import Automaton, Ended, State, automaton_for
from guardmw.policy.schema import Policy
from guardmw.types import ToolCall
from guardmw_langgraph.callmarks import (
    MARK,
    SAME_ID,
    call_of,
    call_state,
    ended_run,
    marks_of,
    refused_ground,
)
from guardmw_langgraph.groups import Group, answers, begins_run, first_answered, groups, newest_answer
from guardmw_langgraph.prose import content_text
from guardmw_langgraph.spent import UNNOTED, is_made, noted_risk

RECENT_CALLS = 24
"""So many of the newest calls a guard is shown."""

REMEMBERED = 64
"""So many conversations are remembered; reading one again costs some microseconds a message."""

SNAPSHOT_EVERY = 64
"""After so many messages the state is kept, for conversations that go back and on from there."""

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Past:
    """What came before a call: the state of the rules and the newest calls made in the conversation; and in the run,
    which begins with the user's newest message, the risk of its allowed calls, how many of them no mark or note tells
    the risk of, by tool, how many messages were refused a call, by tool and ground, and whether one of these refusals
    ends the run."""

    state: State
    calls: tuple[ToolCall, ...] = ()
    risk: float = 0.0
    unnoted: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[tuple[str, str], int] = field(default_factory=dict)
    ended: bool = False

    def after(self, automaton: Automaton, call: ToolCall, ended: Ended = "pending", result: str = "") -> Past:
        state = automaton.step(self.state, call, ended, result)
        # Not `replace`, which takes half the time of reading a conversation.
        calls = (*self.calls, call)[-RECENT_CALLS:]
        return Past(state, calls, self.risk, self.unnoted, self.refusals, self.ended)

    def spending(self, risk: float) -> Past:
        """The same after so much more of the run's risk budget is spent."""
        return replace(self, risk=self.risk + risk) if risk else self

    def with_unnoted(self, tools: Container[str]) -> Past:
        """The same where the calls of `tools` that left no note cost what such calls do."""
        return self.spending(UNNOTED * sum(count for tool, count in self.unnoted.items() if tool in tools))

    def run_is_over(self, limit: int) -> bool:
        """Whether a refusal ended the run, or the same one came in `limit` messages."""
        return self.ended or any(count >= limit for count in self.refusals.values())


@dataclass(slots=True)
class _Read:
    """A conversation as it was read: its messages, and the past before some of them."""

    messages: list[BaseMessage] = field(default_factory=list)
    snapshots: list[tuple[int, Past]] = field(default_factory=list)

    def shared_with(self, messages: Sequence[BaseMessage]) -> int:
        """How many messages from the start on are the same."""
        known = self.messages
        if known == messages[: len(known)]:  # the same objects compare at the speed of pointers
            return len(known)
        pairs = zip(known, messages, strict=False)
        return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(known), len(messages)))

    def rewind(self, shared: int) -> tuple[int, Past | None]:
        """Forgets what isn't shared; the place to read on from, and the past there."""
        while self.snapshots and self.snapshots[-1][0] > shared:
            self.snapshots.pop()
        place, past = self.snapshots[-1] if self.snapshots else (0, None)
        del self.messages[place:]
        return place, past


class CallHistory:
    """Reads conversations. Safe to use from several threads and event loops."""

    def __init__(self) -> None:
        self._read: OrderedDict[tuple[str, object], _Read] = OrderedDict()
        self._lock = Lock()

    def past(self, messages: Sequence[BaseMessage], policy: Policy) -> Past:
        """The past after all of `messages`. Calls of the newest AIMessage that have no result yet are `pending`."""
        automaton = automaton_for(policy)
        messages = messages if isinstance(messages, list) else list(messages)
        if not messages:
            return Past(automaton.start)
        with self._lock:
            return self._read_on(automaton, messages, policy.hash)

    def before(self, messages: Sequence[BaseMessage], policy: Policy) -> Past:
        """The past before the newest AIMessage of `messages`, whose calls are being judged."""
        return self.past(messages[: max(newest_answer(messages, len(messages)), 0)], policy)

    def _read_on(self, automaton: Automaton, messages: list[BaseMessage], policy_hash: str) -> Past:
        """The past after `messages`. All but the newest group, which may still change, is remembered."""
        key = (policy_hash, messages[0].id or id(messages[0]))
        read = self._read.setdefault(key, _Read())
        self._read.move_to_end(key)
        if len(self._read) > REMEMBERED:
            self._read.popitem(last=False)
        end = max(newest_answer(messages, len(messages)), 0)
        place, past = read.rewind(min(read.shared_with(messages), end))
        if (first := first_answered(messages, place)) < place:
            place, past = read.rewind(first)
        past = past or Past(automaton.start)
        for group in groups(messages, place):
            past = _fold(automaton, past, messages, group)
            if group.end < len(messages):
                read.messages += messages[group.start : group.end]
                _snapshot(read.snapshots, group.end, past)
        return past


def _snapshot(snapshots: list[tuple[int, Past]], place: int, past: Past) -> None:
    """Keeps the newest one, and of the others one in SNAPSHOT_EVERY messages."""
    if len(snapshots) > 1 and place - snapshots[-2][0] < SNAPSHOT_EVERY:
        snapshots.pop()
    snapshots.append((place, past))


def _fold(automaton: Automaton, past: Past, messages: Sequence[BaseMessage], group: Group) -> Past:
    """`past` after the messages of `group`."""
    for asking, found in answers(messages, group):
        past = _called(automaton, past, asking, _Results(found))
    return Past(past.state, past.calls) if begins_run(messages, group) else past


class _Results:
    """The results of one message's calls. Where an id was given twice, the refusal of the second call is not the result
    of the first one."""

    def __init__(self, found: Sequence[ToolMessage]) -> None:
        self._first: dict[str, ToolMessage] = {}
        self._repeated: dict[str, ToolMessage] = {}
        self._seen: set[str] = set()
        for one in found:
            (self._repeated if _repeats(one) else self._first)[one.tool_call_id] = one

    def take(self, call: ToolCall) -> ToolMessage | None:
        """The result of `call`; ask for them in the listed order of the calls."""
        call_id = call.id or ""
        again = call_id in self._seen
        self._seen.add(call_id)
        return (self._repeated.get(call_id) if again else None) or self._first.get(call_id)


def _repeats(result: ToolMessage) -> bool:
    return call_state(result) == "refused" and refused_ground(result) == SAME_ID


def _called(automaton: Automaton, past: Past, asking: AIMessage, results: _Results) -> Past:
    """`past` after the calls of `asking`, in their listed order."""
    marks = {mark.id: mark.cost for mark in marks_of(asking)}
    refused: set[tuple[str, str]] = set()
    unnoted: list[str] = []
    risk, ended = past.risk, past.ended
    for call in map(call_of, asking.tool_calls):
        result = results.take(call)
        if result is not None and not is_made(result):
            if call_state(result) == "refused":
                refused.add((call.name, refused_ground(result)))
                ended = ended or ended_run(result)
            continue
        cost = marks[call.id] if call.id in marks else noted_risk(result)
        if cost is None:
            unnoted.append(call.name)
        risk += cost or 0.0
        past = _made(automaton, past, call, result)
    return Past(past.state, past.calls, risk, _counted(past.unnoted, unnoted), _counted(past.refusals, refused), ended)


def _counted(counts: Mapping[Key, int], more: Collection[Key]) -> Mapping[Key, int]:
    if not more:
        return counts
    counted = dict(counts)
    for key in more:
        counted[key] = counted.get(key, 0) + 1
    return counted


def _made(automaton: Automaton, past: Past, call: ToolCall, result: ToolMessage | None) -> Past:
    """`past` after `call`, under the name it was called by, and the one it ran under if somebody redirected it."""
    ended, text = _ending(result)
    past = past.after(automaton, call, ended, text)
    if result is not None and result.name and result.name != call.name:
        past = replace(past, state=automaton.step(past.state, replace(call, name=result.name), ended, text))
    return past


def _ending(result: ToolMessage | None) -> tuple[Ended, str]:
    if result is None:
        return "pending", ""
    if call_state(result) == "withheld":  # of a failure that nobody read only its effects count, as while it runs
        return ("pending" if result.response_metadata[MARK].get("failed") else "hidden"), ""
    return ("failed" if result.status == "error" else "done"), content_text(result)
