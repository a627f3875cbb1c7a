"""What was decided about each call of a message, as it is kept in the message itself: so it survives restarts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from guardmw.types import Action, Approval, Decision, ToolCall
from guardmw_langgraph.held import CALL_BLOCKS, call_ids
from guardmw_langgraph.held import call_of as call_of
from guardmw_langgraph.slots import Fields

MARK: Final = "guardmw"
"""The key of response_metadata under which a message says what the guard decided."""

SAME_ID: Final = "call-id"
"""The ground on which a call is refused whose id an earlier call of the message has."""

CallVerdict = Literal["pass", "ask", "refuse"]
"""`pass` it may be made; `ask` when a person says so; `refuse` it is not made, its arguments were taken out."""

NotMade = Literal["refused", "rejected", "responded", "ended"]
"""Why a ToolMessage of ours stands where a result would: the policy `refused` the call, a person `rejected` it or
`responded` in the tool's place, or the run `ended` before it."""


@dataclass(frozen=True, slots=True)
class CallMark:
    """What was decided about one call. `policies` are the hashes of those that let it pass, `risk` is P(unsafe),
    `ground` the rule or category that decided, `schema` the JSON Schema of the arguments (of asked calls only),
    `digest` that of the call as it was left in the message: a call that was changed since is not the one decided on."""

    id: str | None
    name: str
    verdict: CallVerdict
    action: Action
    policies: tuple[str, ...] = ()
    risk: float = 0.0
    ground: str = ""
    why: str = ""
    instead: str = ""
    ends_run: bool = False
    approval: Approval | None = None
    schema: Fields | None = None
    digest: str = ""

    def on(self, call: ToolCall) -> CallMark:
        """The same mark for `call`, as it stands in the message now."""
        return replace(self, digest=digest_of(call))

    def may_be_made(self, policy_hash: str) -> bool:
        """Whether the policy of that hash lets the call pass, or a person did under it."""
        return (self.verdict == "pass" or self.approval in ("approve", "edit")) and policy_hash in self.policies

    @property
    def forbids(self) -> bool:
        """Whether the call is not made: the policy refused it, or a person answered in its place."""
        return self.verdict == "refuse" or self.approval in ("reject", "respond")

    @property
    def cost(self) -> float:
        """What the call takes of the run's risk budget: nothing when a person let it pass."""
        return self.risk if self.verdict == "pass" else 0.0

    def as_field(self) -> Fields:
        """As it stands in a message: plain values, and no key that says nothing."""
        kept = {key: value for key, value in asdict(self).items() if value not in (None, "", 0.0, False, ())}
        return {**kept, "policies": list(self.policies), "name": self.name}


_NAMES: Final = frozenset(field.name for field in fields(CallMark))


def digest_of(call: ToolCall) -> str:
    """The same for calls of the same name with the same arguments, in whatever order these were written."""
    try:
        said = json.dumps([call.name, json.loads(call.arguments)], sort_keys=True)
    except (ValueError, RecursionError):
        said = json.dumps([call.name, call.arguments, "no JSON"])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def mark_of(
    call: ToolCall, decision: Decision, verdict: CallVerdict, policy_hash: str, *, instead: str = "",
    schema: Fields | None = None,
) -> CallMark:  # fmt: skip
    return CallMark(
        call.id, call.name, verdict, decision.action, (policy_hash,), round(decision.verdict.risk, 4),
        ground(decision), decision.why if verdict != "pass" else "", instead, decision.ends_run, None, schema,
    )  # fmt: skip


def ground(decision: Decision) -> str:
    """What decided: a rule or a category; without one the failure of the guard. It never quotes the call."""
    found = max(decision.verdict.findings, key=lambda finding: finding.probability, default=None)
    if decision.verdict.error is not None and found is None:
        return decision.verdict.error
    return found.category if found is not None and decision.action != "allow" else ""


def marks_of(message: BaseMessage) -> list[CallMark]:
    """What the message says was decided about its calls; nothing when no guard was there, or it can't be read."""
    mark = message.response_metadata.get(MARK)
    kept = mark.get("calls") if isinstance(mark, dict) else None
    found = [_read(one) for one in kept or () if isinstance(one, dict)]
    return [one for one in found if one is not None]


def marks_for(calls: Sequence[ToolCall], message: BaseMessage) -> list[CallMark | None]:
    """For each of `calls` what the message says was decided about exactly this one; None for a call that was changed
    since, and for those nobody decided about. A mark stands for one call, also where an id is given twice."""
    left = marks_of(message)
    found: list[CallMark | None] = []
    for call in calls:
        digest = digest_of(call) if left else ""
        mark = next((one for one in left if one.id == call.id and one.digest == digest), None)
        if mark is not None:
            left.remove(mark)
        found.append(mark)
    return found


def _read(kept: Mapping[str, Any]) -> CallMark | None:
    known = {key: value for key, value in kept.items() if key in _NAMES}
    try:
        return CallMark(**{**known, "policies": tuple(known.get("policies", ()))})
    except TypeError:
        return None


def joined(inner: Sequence[Fields], outer: Sequence[Fields]) -> list[Fields]:
    """The marks of calls that passed two guards: what held a call back counts, the inner one first, but a refusal
    before a question. The call stands as the outer one left it."""
    before = {one.get("id"): one for one in inner}
    merged = []
    for one in outer:
        other = before.get(one.get("id"))
        policies = [*(other or {}).get("policies", ()), *one.get("policies", ())]
        risk = max(one.get("risk", 0), (other or one).get("risk", 0))
        first = other if other is not None and _severity(other) >= max(_severity(one), 1) else one
        merged.append({**first, "policies": policies, "risk": risk, "digest": one.get("digest", "")})
    return merged


def _severity(mark: Fields) -> int:
    return {"pass": 0, "ask": 1}.get(mark.get("verdict", ""), 2)


def with_calls(message: AIMessage, calls: Sequence[ToolCall], marks: Sequence[CallMark]) -> AIMessage:
    """`message` with the arguments of `calls` (none of whose ids changes) and their `marks`; other spellings of a call
    that changed go, since they would still show what it was."""
    changed = {now.id for now, before in zip(calls, map(call_of, message.tool_calls), strict=True) if now != before}
    tool_calls = [
        {**old, "name": now.name, "args": json.loads(now.arguments)}
        for old, now in zip(message.tool_calls, calls, strict=True)
    ]
    mark = {
        **message.response_metadata.get(MARK, {}),
        "calls": [one.on(call).as_field() for one, call in zip(marks, calls, strict=True)],
    }
    update: Fields = {"tool_calls": tool_calls, "response_metadata": {**message.response_metadata, MARK: mark}}
    if changed:
        update["content"] = _unspelled(message.content, changed)
        spelled = ("tool_calls", "function_call")
        update["additional_kwargs"] = {k: v for k, v in message.additional_kwargs.items() if k not in spelled}
    return message.model_copy(update=update)


def _unspelled(content: Any, changed: set[str | None]) -> Any:
    if not isinstance(content, list):
        return content
    return [
        block
        for block in content
        if not (isinstance(block, dict) and block.get("type") in CALL_BLOCKS and call_ids(block) & changed)
    ]


def not_made(
    name: str, call_id: str, text: str, how: NotMade, ground: str = "", *, ends_run: bool = False
) -> ToolMessage:
    """Stands in the state where the result of a call would stand that was not made."""
    status: Literal["success", "error"] = "success" if how == "responded" else "error"
    mark = {"call": how, "ground": ground} | ({"ends_run": True} if ends_run else {})
    return ToolMessage(text, name=name, tool_call_id=call_id, status=status, response_metadata={MARK: mark})


def call_state(message: ToolMessage) -> NotMade | Literal["withheld"] | None:
    """What our own mark on a tool's message says: why the call wasn't made, or that its result was withheld."""
    mark = message.response_metadata.get(MARK)
    if not isinstance(mark, dict):
        return None
    how = mark.get("call")
    return how if how in ("refused", "rejected", "responded", "ended", "withheld") else None


def refused_ground(message: ToolMessage) -> str:
    return str(message.response_metadata[MARK].get("ground", ""))


def ended_run(message: ToolMessage) -> bool:
    """Whether the rule by which the call was refused ends the run."""
    return bool(message.response_metadata[MARK].get("ends_run"))
