"""After the model, before the tools: people are asked, refused calls are answered, and a run that must end is ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from guardmw.policy.automaton import automaton_for
from guardmw.policy.schema import Policy
from guardmw.types import Check, ToolCall
from guardmw_langgraph.callmarks import MARK, CallMark, NotMade, call_of, marks_for, not_made, with_calls
from guardmw_langgraph.held import rendered
from guardmw_langgraph.history import Past
from guardmw_langgraph.people import Answered, Asked, ask
from guardmw_langgraph.results import refusal
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam

CHANGED_POLICY = "the policy changed meanwhile and wants a person's approval for it now"
UNASKED = "it needs a person's approval, and nobody was asked about it as it is now"
ENDED = "the run was ended before it"
REFUSED_BEFORE = "the run is over: what the policy refused in it ends it"


@dataclass(slots=True)
class Settling:
    """The calls of one message while they are settled, in their listed order."""

    seam: Seam
    policy: Policy
    past: Past
    messages: Sequence[BaseMessage]
    calls: list[ToolCall] = field(default_factory=list)
    marks: list[CallMark] = field(default_factory=list)
    answers: dict[int, ToolMessage] = field(default_factory=dict)
    """By the places of the calls they answer, since an id may be given twice."""

    async def settle_all(self, calls: Sequence[ToolCall], marks: Sequence[CallMark]) -> None:
        """Decides what becomes of every call, in order, after asking about all those that a person is to decide."""
        if _is_over(self.past, self.policy):
            for call, mark in zip(calls, marks, strict=True):
                ended = replace(mark, verdict="refuse", why=REFUSED_BEFORE, ends_run=True)
                self._refuse(ToolCall(call.name, "{}", call.id), ended)
            return
        said = _asked(calls, marks)
        for place, (call, mark) in enumerate(zip(calls, marks, strict=True)):
            await self._settle(call, mark, said.get(place))

    async def _settle(self, call: ToolCall, mark: CallMark, said: Answered | None) -> None:
        """Decides what becomes of `call`, which was marked so and about which a person `said` that."""
        if mark.verdict == "refuse":
            self._refuse(call, mark)
        elif said is not None and said.approval in ("reject", "respond"):
            self._decline(call, mark, said)
        elif said is not None:
            self._record(said, mark)
            await self._let(said.call, replace(mark, approval=said.approval), anew=said.approval == "edit")
        else:
            await self._let(call, mark, anew=False)

    async def _let(self, call: ToolCall, mark: CallMark, *, anew: bool) -> None:
        """Lets `call` pass, after another look where somebody changed the call, the policy, or a call before it."""
        rule = automaton_for(self.policy).decide(self.past.state, call)
        if anew or rule.action == "deny" or self.policy.hash not in mark.policies:
            judged = await self.seam.judge_call(call, self.past, self.policy, conversation=conversation(self.messages))
            fresh = judged.mark(self.policy)
            if judged.verdict == "ask" and mark.approval is None:
                fresh = replace(fresh, verdict="refuse", why=why_unasked(mark))
            if fresh.verdict == "refuse" or judged.kept is None:
                self._refuse(ToolCall(call.name, "{}", call.id), replace(fresh, verdict="refuse"))
                return
            call, mark = judged.kept, replace(fresh, approval=mark.approval)
        self.calls.append(call)
        self.marks.append(mark)
        self.past = self.past.spending(mark.cost).after(automaton_for(self.policy), call)

    def _decline(self, call: ToolCall, mark: CallMark, said: Answered) -> None:
        """A person rejected `call`, or answered in the tool's place."""
        self._record(said, mark)
        self.calls.append(call)
        self.marks.append(replace(mark, approval=said.approval))
        if said.approval == "respond":
            self._answer(said.text, "responded")
            return
        why = f" They say: {said.text}" if said.text else " Don't try it again unless the user asks for it."
        self._answer(f"[A person rejected the call of {call.name!r}; it was not made.{why}]", "rejected")

    def _refuse(self, call: ToolCall, mark: CallMark) -> None:
        self.calls.append(call)
        self.marks.append(mark)
        what = f"{call.name!r} was not called"
        self._answer(refusal(what, self.policy.id, mark.why, mark.instead), "refused", mark.ground)

    def _answer(self, text: str, how: NotMade, ground: str = "", *, place: int | None = None) -> None:
        """Answers the newest of `calls`, or the one at `place`."""
        place = len(self.calls) - 1 if place is None else place
        call = self.calls[place]
        self.answers[place] = not_made(call.name, call.id or "", text, how, ground)

    def _record(self, said: Answered, mark: CallMark) -> None:
        check = Check("tool_call", rendered(said.call), self.seam.agent, calls=(*self.past.calls, said.call))
        why = f"a person said {said.approval}: {said.text}" if said.text else f"a person said {said.approval}"
        self.seam.checker.answered(check, said.approval, self.policy, f"{why} (asked since {mark.why})")

    def ends_run(self) -> bool:
        """Whether a refusal ends the run: its rule says so, or it was refused the same often enough."""
        refused = [mark for mark in self.marks if mark.verdict == "refuse"]
        again = {(mark.name, mark.ground) for mark in refused}
        limit = self.policy.limits.refusals
        return any(mark.ends_run for mark in refused) or any(
            self.past.refusals.get(one, 0) + 1 >= limit for one in again
        )

    def end(self) -> None:
        """Answers every call that was to be made: none of them is."""
        for place, call in enumerate(self.calls):
            if place not in self.answers:
                text = refusal(f"{call.name!r} was not called", self.policy.id, ENDED, "")
                self._answer(text, "ended", place=place)


async def settled(seam: Seam, messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """The update of the state that settles the calls of the newest message; None when there is nothing to do.

    Interrupts the graph while a person is asked. It runs anew from its start when the run is resumed, and does the
    same again until then: all it goes by is what stands in the messages.
    """
    message = messages[-1]
    if not isinstance(message, AIMessage) or not message.tool_calls:
        return None
    policy = await seam.checker.policy_for(seam.agent)
    calls = [call_of(call) for call in message.tool_calls]
    found = zip(calls, marks_for(calls, message), strict=True)
    marks = [mark or CallMark(call.id, call.name, "pass", "allow") for call, mark in found]
    if all(mark.may_be_made(policy.hash) for mark in marks):
        return None
    settling = Settling(seam, policy, seam.history.before(messages, policy), messages[:-1])
    await settling.settle_all(calls, marks)
    return _update(settling, message)


def why_unasked(mark: CallMark | None) -> str:
    """Why a call is refused that a person would have to be asked about: by the `mark` it has, nobody was."""
    return CHANGED_POLICY if mark is not None and mark.policies else UNASKED


def _asked(calls: Sequence[ToolCall], marks: Sequence[CallMark]) -> dict[int, Answered]:
    """What people say to the calls they are to decide about, by place; all of them are asked about at once."""
    places = [place for place, mark in enumerate(marks) if mark.verdict == "ask" and mark.approval is None]
    if not places:
        return {}
    return dict(zip(places, ask([Asked(calls[place], marks[place]) for place in places]), strict=True))


def _update(settling: Settling, message: AIMessage) -> dict[str, Any]:
    changed = with_calls(message, settling.calls, settling.marks)
    if not settling.ends_run():
        return {"messages": [changed, *settling.answers.values()]}
    settling.end()
    policy = settling.policy
    mark = {**message.response_metadata.get(MARK, {}), "action": "block"}
    mark.pop("calls", None)
    return {"messages": [changed, *settling.answers.values(), closing(policy, mark)], "jump_to": "end"}


def closing(policy: Policy, mark: dict[str, Any]) -> AIMessage:
    """The answer that ends a run, with `mark`."""
    return AIMessage(policy.messages.blocked, response_metadata={"finish_reason": "content_filter", MARK: mark})


async def ended(seam: Seam, messages: Sequence[BaseMessage]) -> AIMessage | None:
    """The answer that ends the run instead of another one of the model, where calls refused just before they ran end
    it; None when it may go on."""
    agent = seam.agent
    policy = await seam.checker.policy_for(agent)
    if not _is_over(seam.history.past(messages, policy), policy):
        return None
    return closing(policy, {**seam.mark(policy, agent, None, altered=True), "action": "block"})


def _is_over(past: Past, policy: Policy) -> bool:
    return policy.mode == "enforce" and past.run_is_over(policy.limits.refusals)
