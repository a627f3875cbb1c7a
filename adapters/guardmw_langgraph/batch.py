"""The calls that one task of a hand-written graph runs, decided together before the first of them runs.

A ToolNode runs the calls of a message at the same time, in one task. When one of them interrupted it on its own, those
that had run by then would run again after the resume. So whichever guarded tool comes first decides about all guarded
calls of the message, asks about all at once, and the others wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool

from guardmw.errors import BlockedError
from guardmw.policy.automaton import automaton_for
from guardmw.policy.schema import Policy
from guardmw.types import ToolCall
from guardmw_langgraph.callmarks import CallMark, call_of, call_state, marks_of
from guardmw_langgraph.calls import Calls
from guardmw_langgraph.internals import RunningTask, can_interrupt
from guardmw_langgraph.loop import Loop
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.settle import Settling

MAX_TASKS = 256


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the call `asked`: as it is made, or the message that stands in the place of its result."""

    asked: ToolCall
    call: ToolCall
    mark: CallMark
    answer: ToolMessage | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was decided about calls a person is asked about, under which policy and after which messages."""

    policy_hash: str
    messages: list[BaseMessage]
    calls: list[ToolCall]
    marks: list[CallMark]


Outcomes = Mapping[str, Settled]


class Batches:
    """Decides the calls of each task once, whichever of its tools asks first, in whatever thread or event loop."""

    def __init__(self, seam: Seam, tools: Sequence[BaseTool]) -> None:
        self._seam = seam
        self._tools = {tool.name: tool for tool in tools}
        self._tasks: OrderedDict[tuple[int, str], tuple[object, Future[Outcomes]]] = OrderedDict()
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._lock = Lock()

    async def outcome(self, task: RunningTask, call_id: str) -> Settled | None:
        """What becomes of the call with that id; None when the newest message makes no such call.

        Raises BlockedError when the policy ends the run here, and interrupts the graph while a person is asked.
        """
        messages = task.messages or []
        place = next((at for at in range(len(messages) - 1, -1, -1) if isinstance(messages[at], AIMessage)), -1)
        asking = messages[place] if place >= 0 else None
        if not isinstance(asking, AIMessage) or call_id not in {call["id"] for call in asking.tool_calls}:
            return None
        only = call_id if task.alone else None
        future, mine = self._future(task.attempt, f"{asking.id} {only}")
        if not mine:
            return (await asyncio.wrap_future(future)).get(call_id)
        try:
            outcomes = await self._decided(messages, place, only)
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(outcomes)
        return outcomes.get(call_id)

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
        calls, marks = await self._once_judged(policy, messages, place, only)
        settling = Settling(self._seam, policy, self._seam.history.before(messages, policy), messages[:place])
        await settling.settle_all(calls, marks)
        if settling.ends_run():
            why = next(mark.why for mark in settling.marks if mark.verdict == "refuse")
            raise BlockedError(f"the policy {policy.id!r} ends the run here: {why}")
        answers = {answer.tool_call_id: answer for answer in settling.answers}
        rows = zip(calls, settling.calls, settling.marks, strict=True)
        return {call.id: Settled(asked, call, mark, answers.get(call.id)) for asked, call, mark in rows if call.id}

    async def _once_judged(
        self, policy: Policy, messages: Sequence[BaseMessage], place: int, only: str | None
    ) -> tuple[list[ToolCall], list[CallMark]]:
        """As `_judged`; what a person is asked about is not judged and recorded anew when the graph is resumed here.

        In another process it is: a task that is interrupted can leave nothing in the state.
        """
        key = f"{messages[place].id} {only}"
        known = self._asked.get(key)
        if known is not None and known.policy_hash == policy.hash and known.messages == list(messages):
            return known.calls, known.marks
        calls, marks = await self._judged(policy, messages, place, only)
        if any(mark.verdict == "ask" for mark in marks):
            self._asked[key] = _Asked(policy.hash, list(messages), calls, marks)
            if len(self._asked) > MAX_TASKS:
                self._asked.popitem(last=False)
        return calls, marks

    async def _judged(
        self, policy: Policy, messages: Sequence[BaseMessage], place: int, only: str | None
    ) -> tuple[list[ToolCall], list[CallMark]]:
        """The calls that are ours to decide, in their listed order, with what a guarded model decided about them
        already, or what is decided now."""
        asking = messages[place]
        assert isinstance(asking, AIMessage)  # noqa: S101  # the caller found it by that
        said = conversation(messages[:place])
        loop = Loop(self._tools, can_interrupt(), messages)
        judging = Calls(self._seam, policy, self._seam.history.before(messages, policy), said, loop)
        answered = {one.tool_call_id: one for one in messages[place:] if isinstance(one, ToolMessage)}
        known = {mark.id: mark for mark in marks_of(asking)}
        found: list[tuple[ToolCall, CallMark]] = []
        for call in map(call_of, asking.tool_calls):
            ours = call.name in self._tools and bool(call.id) and only in (None, call.id)
            if ours and call.id not in answered:
                mark = known.get(call.id)
                found.append((call, mark) if mark is not None else await judging.mark(call))
            elif call.id not in answered or call_state(answered[call.id]) in (None, "withheld"):
                judging.past = judging.past.after(automaton_for(policy), call)
        return [call for call, _ in found], [mark for _, mark in found]
