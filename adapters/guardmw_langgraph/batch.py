"""The calls that one task of a hand-written graph runs, decided together before the first of them runs.

A ToolNode runs the calls of a message at the same time, in one task. When one of them interrupted it on its own, those
that had run by then would run again after the resume. So whichever guarded tool comes first decides about all guarded
calls of the message, asks about all at once, and the others wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp

from guardmw.errors import BlockedError
from guardmw.policy.schema import Policy
from guardmw.types import ToolCall
from guardmw_langgraph.admit import judge_late, late_refusal
from guardmw_langgraph.callmarks import CallMark, call_of, digest_of, marks_for
from guardmw_langgraph.calls import Calls
from guardmw_langgraph.groups import newest_answer
from guardmw_langgraph.history import Past
from guardmw_langgraph.internals import RunningTask, can_interrupt
from guardmw_langgraph.loop import Loop
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.settle import Settling
from guardmw_langgraph.spent import cost_of, is_made

MAX_TASKS = 256


class RunEnded(BlockedError, GraphBubbleUp):
    """Ends the run, so no ToolNode may make a message of it, whatever errors it was told to handle."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the call `asked`, as it stands in the message: as it is made, or the message that stands in the
    place of its result."""

    asked: ToolCall
    call: ToolCall
    mark: CallMark
    answer: ToolMessage | None = None


@dataclass(frozen=True, slots=True)
class _Judged:
    """The call `asked`, as it may be made, what was decided about it, and the past it was decided after."""

    asked: ToolCall
    kept: ToolCall
    mark: CallMark
    past: Past


@dataclass(frozen=True, slots=True)
class _Batch:
    """The calls of the newest message, `judged` together under a policy, for all tasks that run them (None: whoever
    judged them was stopped). `awaited` are the ids of calls whose tasks haven't asked yet; a task that runs all of them
    stands there as None."""

    policy_hash: str
    messages: list[BaseMessage]
    awaited: set[str | None]
    judged: Future[list[_Judged] | None] = field(default_factory=Future)

    def serves(self, policy_hash: str, messages: Sequence[BaseMessage], only: str | None) -> bool:
        """Whether it holds for a task. One that comes again is run anew, and its call is judged anew, unless a person
        was asked meanwhile."""
        if self.policy_hash != policy_hash or self.messages != list(messages):
            return False
        stopped = self.judged.done() and self.judged.result() is None
        return not stopped and (only in self.awaited or self.asks())

    def asks(self) -> bool:
        """Whether a person is asked about a call."""
        found = self.judged.result() if self.judged.done() else None
        return any(one.mark.verdict == "ask" for one in found or ())


Outcomes = Mapping[str, list[Settled]]
"""By call id; several where one was given twice."""

Given = Callable[[ToolCall], ToolCall]
"""A call of the message as the tool was really given it: the same one, unless somebody changed it on the way."""


class Batches:
    """Decides the calls of each task once, whichever of its tools asks first, in whatever thread or event loop."""

    def __init__(self, seam: Seam, tools: Sequence[BaseTool]) -> None:
        self._seam = seam
        self._tools = {tool.name: tool for tool in tools}
        self._tasks: OrderedDict[tuple[int, str], tuple[object, Future[Outcomes]]] = OrderedDict()
        self._batches: OrderedDict[str, _Batch] = OrderedDict()
        self._lock = Lock()

    async def outcome(self, task: RunningTask, call_id: str, given: Given) -> Settled | None:
        """What becomes of the call with that id as it was `given`; None when the newest message makes no such call.

        Raises BlockedError when the policy ends the run here, and interrupts the graph while a person is asked.
        """
        messages = task.messages or []
        place = newest_answer(messages, len(messages))
        calls = _calls(messages[place]) if place >= 0 else []
        asked = next((call for call in calls if call.id == call_id), None)
        if asked is None:
            return None
        only = call_id if task.alone else None
        outcomes = await self._shared(task.attempt, messages, place, only)
        found = self._claimed(outcomes.get(call_id, []), given, task.alone)
        return found or await self._judged_late(given(asked), messages)

    async def _shared(self, attempt: object, messages: list[BaseMessage], place: int, only: str | None) -> Outcomes:
        future, mine = self._future(attempt, f"{messages[place].id} {only}")
        if not mine:
            return await asyncio.wrap_future(future)
        try:
            outcomes = await self._decided(messages, place, only)
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(outcomes)
        return outcomes

    def _claimed(self, rows: list[Settled], given: Given, alone: bool) -> Settled | None:
        """What was decided about the call as it was given. Of calls that are alike in everything the first to come is
        the first one; in tasks of their own, which can't tell which they are, each is taken for the last."""
        with self._lock:
            alike = [row for row in rows if digest_of(row.asked) == digest_of(given(row.asked))]
            if len(alike) > 1 and not alone:
                rows.remove(alike[0])
                return alike[0]
        return alike[-1] if alike else None

    async def _judged_late(self, call: ToolCall, messages: Sequence[BaseMessage]) -> Settled:
        """What becomes of a call that isn't the one that was decided about."""
        policy = await self._seam.checker.policy_for(self._seam.agent)
        judged, why = await judge_late(self._seam, call, messages, policy)
        mark = judged.mark(policy)
        if why and mark.ends_run:
            raise RunEnded(f"the policy {policy.id!r} ends the run here: {why}")
        if judged.kept is None or why:
            return Settled(call, call, mark, late_refusal(judged, policy, why))
        return Settled(call, judged.kept, mark)

    def _future(self, attempt: object, what: str) -> tuple[Future[Outcomes], bool]:
        """The future of all who want the same, and whether it is the caller's to fulfil."""
        key = (id(attempt), what)
        with self._lock:
            known = self._tasks.get(key)
            if known is not None and known[0] is attempt:
                return known[1], False
            future: Future[Outcomes] = Future()
            self._tasks[key] = (attempt, future)
            if len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)
            return future, True

    async def _decided(self, messages: Sequence[BaseMessage], place: int, only: str | None) -> Outcomes:
        policy = await self._seam.checker.policy_for(self._seam.agent)
        judged = await self._once_judged(policy, messages, place, only)
        ours = [one for one in judged if only in (None, one.asked.id)]
        past = ours[0].past if ours else self._before(policy, messages)
        settling = Settling(self._seam, policy, past, messages[:place])
        await settling.settle_all([one.kept for one in ours], [one.mark for one in ours])
        if settling.ends_run():
            why = next(mark.why for mark in settling.marks if mark.verdict == "refuse")
            raise RunEnded(f"the policy {policy.id!r} ends the run here: {why}")
        outcomes: dict[str, list[Settled]] = {}
        for at, (one, call, mark) in enumerate(zip(ours, settling.calls, settling.marks, strict=True)):
            row = Settled(one.asked, call, mark, settling.answers.get(at))
            outcomes.setdefault(one.asked.id or "", []).append(row)
        return outcomes

    async def _once_judged(
        self, policy: Policy, messages: Sequence[BaseMessage], place: int, only: str | None
    ) -> list[_Judged]:
        """As `_judged`, once for all tasks that run calls of the message; and what a person is asked about is not
        judged and recorded anew when the graph is resumed here.

        In another process it is: a task that is interrupted can leave nothing in the state.
        """
        found: list[_Judged] | None = None
        while found is None:
            batch, mine = self._batch(policy, messages, place, only)
            found = await (self._fulfilled(batch, policy, place) if mine else asyncio.wrap_future(batch.judged))
        self._forget(batch, place)
        return found

    def _batch(
        self, policy: Policy, messages: Sequence[BaseMessage], place: int, only: str | None
    ) -> tuple[_Batch, bool]:
        """The batch that the task belongs to, and whether the task is to judge it."""
        key = str(messages[place].id)
        with self._lock:
            batch = self._batches.get(key)
            mine = batch is None or not batch.serves(policy.hash, messages, only)
            if batch is None or mine:
                awaited: set[str | None] = {None} if only is None else {call.id for call in _calls(messages[place])}
                batch = self._batches[key] = _Batch(policy.hash, list(messages), awaited)
                batch.judged.set_running_or_notify_cancel()  # none of those who wait for it can cancel it
                if len(self._batches) > MAX_TASKS:
                    self._batches.popitem(last=False)
            batch.awaited.discard(only)
            return batch, mine

    def _forget(self, batch: _Batch, place: int) -> None:
        """Forgets `batch` when all tasks had it, unless they come again with a person's answer."""
        key = str(batch.messages[place].id)
        with self._lock:
            if not batch.awaited and not batch.asks() and self._batches.get(key) is batch:
                del self._batches[key]

    async def _fulfilled(self, batch: _Batch, policy: Policy, place: int) -> list[_Judged]:
        try:
            judged = await self._judged(policy, batch.messages, place)
        except BaseException:
            batch.judged.set_result(None)
            raise
        batch.judged.set_result(judged)
        return judged

    async def _judged(self, policy: Policy, messages: Sequence[BaseMessage], place: int) -> list[_Judged]:
        """The calls that are ours to decide, in their listed order, with what a guarded model decided about them
        already, or what is decided now."""
        said = conversation(messages[:place])
        loop = Loop(self._tools, can_interrupt(), messages)
        judging = Calls(self._seam, policy, self._before(policy, messages), said, loop)
        answered = {one.tool_call_id: one for one in messages[place:] if isinstance(one, ToolMessage)}
        calls = _calls(messages[place])
        found: list[_Judged] = []
        seen: set[str | None] = set()
        for call, mark in zip(calls, marks_for(calls, messages[place]), strict=True):
            past, ours = judging.past, call.name in self._tools and bool(call.id)
            if ours and call.id not in answered:
                if mark is None or call.id in seen:
                    found.append(_Judged(call, *await judging.mark(call, repeated=call.id in seen), past))
                else:
                    judging.known(call, mark)
                    found.append(_Judged(call, call, mark, past))
            elif is_made(result := answered.get(call.id or "")):
                cost = cost_of(result) if ours and result is not None else 0.0
                judging.known(call, mark or CallMark(call.id, call.name, "pass", "allow", risk=cost))
            seen.add(call.id)
        return found

    def _before(self, policy: Policy, messages: Sequence[BaseMessage]) -> Past:
        """The past before the message whose calls are decided, and what calls of ours cost that left no note of it."""
        return self._seam.history.before(messages, policy).with_unnoted(self._tools)


def _calls(message: BaseMessage) -> list[ToolCall]:
    return [call_of(call) for call in message.tool_calls] if isinstance(message, AIMessage) else []
