"""The calls of one answer, judged in their listed order before anyone sees them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from guardmw.policy.arguments import parse_arguments
from guardmw.policy.automaton import State, automaton_for
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.types import Decision, Message, ToolCall
from guardmw_langgraph.callmarks import SAME_ID, CallMark
from guardmw_langgraph.held import Held
from guardmw_langgraph.history import Past
from guardmw_langgraph.loop import Loop
from guardmw_langgraph.seam import JudgedCall, Seam

MALFORMED = RuleOutcome(
    "deny", "arguments", "its arguments are no JSON object", "Call it again with its arguments as one JSON object."
)
REPEATED = RuleOutcome("deny", SAME_ID, "its id is that of an earlier call in the same message")
UNKNOWN_TOOL = "unknown_tool"
"""What a refused call is called whose tool the agent doesn't have: the name itself is the model's text."""

NO_SUCH_TOOL = "there is no tool of the name that was called"
NOBODY_TO_ASK = "it needs a person's approval, and nobody can be asked: the agent runs without a checkpointer"


@dataclass
class Calls:
    """Judges calls and keeps what was decided as `marks`, one for every call that stays in the message.

    Outside an agent's loop, where nobody could answer it, a call that may not be made is taken out of the message.
    Within one it stays without its arguments, so that the agent can be told why and go on; without its name too, when
    that is none of the agent's tools. A call that a person is to decide about stays as it is.
    """

    seam: Seam
    policy: Policy
    past: Past
    conversation: tuple[Message, ...]
    loop: Loop | None
    marks: list[CallMark] = field(default_factory=list)
    kept_back: Decision | None = None
    _undecided: list[str] = field(default_factory=list)
    """The names of the calls that a person is to decide about."""
    _certain: State = field(init=False)
    """That of the rules when none of the undecided calls is made."""

    def __post_init__(self) -> None:
        self._certain = self.past.state

    async def judge(self, held: Held) -> Decision | None:
        """Decides every call in `held`; the decision by which the first one was taken out, if any was."""
        ids: set[str] = set()
        taken_out: Decision | None = None
        for place, call in enumerate(held.calls):
            if call is None:
                continue
            repeated = self.loop is not None and call.id is not None and call.id in ids
            judged = await self._judged(call, repeated=repeated)
            held.calls[place] = None if repeated and judged.verdict == "refuse" else self._kept(judged)
            if held.calls[place] is None and not repeated:
                taken_out = taken_out or judged.decision
            ids |= {call.id} if call.id else set()
        return taken_out

    async def mark(self, call: ToolCall, *, repeated: bool = False) -> tuple[ToolCall, CallMark]:
        """Decides about a `call` that has an answer in this loop (`repeated`: under the id of an earlier one): as it
        stays, and what was decided."""
        kept = self._kept(await self._judged(call, repeated=repeated))
        return kept or ToolCall(call.name, "{}", call.id), self.marks[-1]

    def known(self, call: ToolCall, mark: CallMark) -> None:
        """Counts a `call` of the same message that was decided about before."""
        if not mark.forbids:
            self.past = self.past.spending(mark.cost)
            self._counts(call, asked=mark.verdict == "ask" and mark.approval is None)

    def _counts(self, call: ToolCall, *, asked: bool) -> None:
        """Counts `call` for those listed after it. What a person is `asked` about may yet not be made."""
        automaton = automaton_for(self.policy)
        self.past = self.past.after(automaton, call)
        if asked:
            self._undecided.append(call.name)
        else:
            self._certain = automaton.step(self._certain, call, "pending")

    def _ruled(self, call: ToolCall) -> RuleOutcome:
        """What the rules say to `call`, worded as long as nobody knows whether the undecided calls are made."""
        automaton = automaton_for(self.policy)
        rule = automaton.decide(self.past.state, call)
        if rule.action != "deny" or not self._undecided:
            return rule
        certain = automaton.decide(self._certain, call)
        if certain.action == "deny":
            return certain
        others = ", ".join(repr(name) for name in dict.fromkeys(self._undecided))
        why = f"it depends on {others}, about which a person decides first"
        return RuleOutcome("deny", rule.rule, why, f"Call {call.name!r} again when that is decided.")

    async def _judged(self, call: ToolCall, *, repeated: bool) -> JudgedCall:
        rule = REPEATED if repeated else self._ruled(call)
        if not repeated and self._answerable(call) and parse_arguments(call.arguments) is None:
            rule = MALFORMED
        judged = await self.seam.judge_call(call, self.past, self.policy, conversation=self.conversation, rule=rule)
        if judged.verdict == "pass":
            self.past = self.past.spending(judged.decision.verdict.risk)
        if judged.verdict == "pass" or (judged.verdict == "ask" and self._askable(call)):
            self._counts(judged.kept or call, asked=judged.verdict == "ask")
        return judged

    def _kept(self, judged: JudgedCall) -> ToolCall | None:
        """The call as it stays in the message, None when it goes."""
        call, verdict = judged.asked, judged.verdict
        if verdict != "pass" and not self._answerable(call):
            self.kept_back = self.kept_back or judged.decision
            return None
        if verdict != "pass" and not self._has_tool(call):
            return self._kept_nameless(judged)
        mark = judged.mark(self.policy, schema=self.loop.schema(call.name) if self.loop and verdict == "ask" else None)
        if verdict == "ask" and not self._askable(call):
            mark = replace(mark, verdict="refuse", why=f"{NOBODY_TO_ASK} ({mark.why})", schema=None)
        if mark.verdict != "pass":
            self.kept_back = self.kept_back or judged.decision
        kept = judged.kept if mark.verdict != "refuse" else None
        return self._marked(kept or ToolCall(call.name, "{}", call.id), mark)

    def _kept_nameless(self, judged: JudgedCall) -> ToolCall:
        """What stays of a call that isn't made, of a tool that the agent doesn't have."""
        tools = ", ".join(self.loop.tools) if self.loop else ""
        instead = f"Call one of these: {tools}." if tools else ""
        mark = replace(
            judged.mark(self.policy), name=UNKNOWN_TOOL, verdict="refuse", why=NO_SUCH_TOOL, instead=instead
        )  # fmt: skip
        self.kept_back = self.kept_back or replace(judged.decision, why=NO_SUCH_TOOL)
        return self._marked(ToolCall(UNKNOWN_TOOL, "{}", judged.asked.id), mark)

    def _marked(self, call: ToolCall, mark: CallMark) -> ToolCall:
        self.marks.append(mark.on(call))
        return call

    def _answerable(self, call: ToolCall) -> bool:
        """Whether the agent can be told why `call` isn't made."""
        return self.loop is not None and bool(call.id) and self.loop.answers(call.name)

    def _has_tool(self, call: ToolCall) -> bool:
        return self.loop is not None and call.name in self.loop.tools

    def _askable(self, call: ToolCall) -> bool:
        return self._answerable(call) and self._has_tool(call) and self.loop is not None and self.loop.can_ask
