"""Judges what tools return, in whatever shape they return it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any, Final

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import ToolException
from langgraph.types import Command, Send

from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.types import Check, Decision, Message, Origin, ToolCall
from guardmw_langgraph.callmarks import MARK
from guardmw_langgraph.contents import Reading, read, read_returned
from guardmw_langgraph.cutting import without_offence
from guardmw_langgraph.internals import running_task
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.updates import as_message, has_messages, is_entry, may_be_messages, update_of
from guardmw_langgraph.windowed import judged

_BESIDE: Final = ("additional_kwargs", "invalid_tool_calls", "tool_calls")
"""What a model may read of a message besides its content."""

GO_ON = "Go on without it, or say that you can't."


def refusal(what: str, policy: str, why: str, instead: str = "") -> str:
    """What the agent reads in place of something withheld."""
    return f"[Withheld by the policy {policy!r}: {what}, because {why}. {instead or GO_ON}]"


class Results:
    """Judges all that one run of a tool gives back; what was let pass is not judged twice.

    `ours` says that the tool is a guarded one, whose marks on messages count; `risk` is what the call takes of the
    run's risk budget, to be noted in the message that answers it. A text that may not be read is replaced as the policy
    says under ``tools.results``.
    """

    def __init__(self, seam: Seam, call: ToolCall, *, ours: bool = False, risk: float | None = None) -> None:
        self.seam, self.call, self._risk = seam, call, risk
        self._ours, self._said = ours, _said()
        self._failed = False
        self._passed: dict[str, bool] = {}  # the texts that may be read, and whether they say only what was withheld
        self._error = ""

    async def judged(self, result: Any) -> Any:
        """`result` as the agent may see it: itself, with parts redacted, or a text that says why it was withheld.

        Messages keep their ids; of a Command those are judged that it adds or sends, other keys of the state pass.
        """
        if isinstance(result, ToolMessage):
            return await self._message(result)
        if isinstance(result, Command):
            return await self._command(result)
        if isinstance(result, list) and any(isinstance(item, Command | ToolMessage) for item in result):
            return [await self.judged(item) for item in result]
        return await self._value(result, "result")

    async def answered(self, content: Any) -> Any:
        """`content` that stands for an error, as the agent may read it."""
        shown = await self._value(content, "error")
        self._failed = self._failed or shown is not content
        return shown

    async def error(self, error: Exception) -> Exception:
        """`error`, when the agent may read what it says, else one that says that it can't."""
        text = _text_of(error)
        if not text.strip() or text in self._passed:
            return error
        shown = await self._value(text, "error")
        if shown == text:
            return error
        self._error = shown if self._passed[shown] else ""
        return ToolException(shown)

    async def _message(self, message: ToolMessage) -> ToolMessage:
        if MARK in message.response_metadata and not self._ours:  # a tool can't say of itself that it wasn't called
            metadata = {key: value for key, value in message.response_metadata.items() if key != MARK}
            message = message.model_copy(update={"response_metadata": metadata})
        elif MARK in message.response_metadata and "call" in message.response_metadata[MARK]:
            return message
        if read(message.content).text in self._passed:
            return self.marked(message)
        shown = await self._value(message.content, "error" if message.status == "error" else "result", read)
        if shown is not message.content:
            message = message.model_copy(update={"content": shown, "artifact": None, "additional_kwargs": {}})
        return self.marked(message)

    def marked(self, message: ToolMessage) -> ToolMessage:
        """`message`, and what can be read from it later: what the call took of the run's risk budget, and whether
        nothing of what the tool said was let pass: then it taints nothing."""
        failed = self._failed or message.status == "error"
        withheld = self._withholds(read(message.content).text)
        mark = {**message.response_metadata.get(MARK, {})}
        if self._risk is not None and message.tool_call_id == self.call.id:
            mark["risk"] = self._risk
        if withheld:
            mark |= {"call": "withheld"} | ({"failed": True} if failed else {})
        metadata = {**message.response_metadata, **({MARK: mark} if mark else {})}
        status = "error" if failed or withheld else message.status
        if (status, metadata) == (message.status, message.response_metadata):
            return message
        return message.model_copy(update={"status": status, "response_metadata": metadata})

    def _withholds(self, text: str) -> bool:
        """Whether `text` says only that what the tool returned or raised was withheld."""
        repeats = bool(self._error) and (self._error in text or repr(self._error)[1:-1] in text)
        return repeats or self._passed.get(text, False)

    async def _command(self, command: Command[Any]) -> Command[Any]:
        goto: Any = command.goto
        if isinstance(goto, Send):
            goto = await self._sent(goto)
        elif isinstance(goto, list | tuple):
            goto = type(goto)([await self._sent(each) for each in goto])
        return replace(command, update=await self._update(update_of(command)), goto=goto)

    async def _sent(self, each: Any) -> Any:
        """`each` place that a Command goes to, with what it sends there judged."""
        if not isinstance(each, Send):
            return each
        sent = copy(each)  # keeps what newer versions add to it
        sent.arg = await self._update(each.arg)
        return sent

    async def _update(self, update: Any) -> Any:
        """`update` of a state, in any form that LangGraph takes, with its messages judged."""
        if isinstance(update, dict):
            return dict([await self._entry(one) for one in update.items()])
        if isinstance(update, list | tuple) and update and all(map(is_entry, update)):
            entries = [await self._entry(one) for one in update]
            return entries if isinstance(update, list) else tuple(entries)
        return await self._messages(update) if may_be_messages(update) else update

    async def _entry(self, entry: tuple[Any, Any]) -> Any:
        """A key of the state and its value, with what messages there are judged."""
        key, value = entry
        if key == "messages" or has_messages(value):
            return key, await self._messages(value)
        return entry

    async def _messages(self, messages: Any) -> Any:
        """`messages`, one or several, in any form that LangGraph takes, judged."""
        if isinstance(messages, list):
            return [await self._one(each) for each in messages]
        if isinstance(messages, tuple) and as_message(messages) is None:
            return tuple([await self._one(each) for each in messages])
        one = None if messages is None else await self._one(messages)
        return messages if one is messages else [one]

    async def _one(self, written: Any) -> Any:
        """A message as somebody wrote it: itself when it may be read as it is."""
        message = as_message(written)
        if isinstance(message, ToolMessage):
            return await self._message(message)
        if message is None:  # a reducer of its own may take it, so it is judged as what it is
            return await self._value(written, "result")
        shown = await self._spoken(message)
        return written if shown is message else shown

    async def _spoken(self, message: BaseMessage) -> BaseMessage:
        """A message that is no tool's by its class, though a tool put it there."""
        content = await self._unjudged(message.content)
        beside = {key: value for key in _BESIDE if (value := getattr(message, key, None))}
        shown = await self._unjudged(beside) if beside else beside
        if content is message.content and shown is beside:
            return message
        said = shown if shown is not beside and not read(content).text else content
        return message.model_copy(update={"content": said, **{key: type(beside[key])() for key in beside}})

    async def _unjudged(self, value: Any) -> Any:
        return value if read(value).text in self._passed else await self._value(value, "result", read)

    async def _value(self, value: Any, origin: Origin, reader: Callable[[Any], Reading] = read_returned) -> Any:
        """`value`, which the model will read as `reader` does, when it may, else what is read in its place."""
        reading = reader(value)
        if not reading.text and not reading.media:
            return value
        policy = await self.seam.checker.policy_for(self.seam.agent)
        limited = _limited(reading, policy) if policy.mode == "enforce" else reading
        shown, withheld = await self._shown(limited, policy, origin)
        self._passed[reader(shown).text] = withheld
        return value if shown == limited.content(limited.text) and limited is reading else shown

    async def _shown(self, reading: Reading, policy: Policy, origin: Origin) -> tuple[Any, bool]:
        """The content that may be read, and whether nothing of the original is in it."""
        check = Check(
            "tool_result", reading.text, self.seam.agent, conversation=self._said, calls=(self.call,), origin=origin
        )
        verdict = await judged(self.seam.checker, policy, check, _too_much(reading, policy))
        if not verdict.offends:
            return reading.content(verdict.redacted), False
        if policy.tools.results.blocked == "clean_parts" or not verdict.decision.withheld:
            kept = await self._clean_parts(check, policy, verdict.decision, reading)
            if kept is not None:
                return kept, False
        if not verdict.decision.withheld:
            return reading.content(verdict.redacted), False
        return self._replacement(reading, policy, verdict.decision, origin), True

    async def _clean_parts(self, check: Check, policy: Policy, decision: Decision, reading: Reading) -> Any:
        """What is left of the text after the cut; None when that may not be read either, or there is nothing."""
        ground = _ground(decision)

        async def offends(text: str) -> bool:
            return (await judged(self.seam.checker, policy, replace(check, content=text))).offends

        kept = await without_offence(check.content, offends, f"[removed: {ground}]")
        if kept is None:
            return None
        again = await judged(self.seam.checker, policy, replace(check, content=kept.text))
        if again.offends:
            return None
        note = (
            f"[The policy {policy.id!r} removed {kept.removed} of {kept.sentences} sentences from what "
            f"{self.call.name!r} returned ({kept.chars:,} of {len(check.content):,} characters): {ground}.]"
        )
        return reading.content(f"{again.redacted}\n\n{note}")

    def _replacement(self, reading: Reading, policy: Policy, decision: Decision, origin: Origin) -> str:
        what = "what went wrong in" if origin == "error" else "the result of"
        told = f" ({reading.described()})" if policy.tools.results.blocked != "refusal" else ""
        return refusal(f"{what} {self.call.name!r} is not shown{told}", policy.id, decision.why)


def _said() -> tuple[Message, ...]:
    """The conversation that the tool is called in: what a result may ask for hangs on what the user wanted."""
    task = running_task()
    return conversation(task.messages or []) if task is not None else ()


def _limited(reading: Reading, policy: Policy) -> Reading:
    """`reading` without what the policy leaves out: media, and text beyond the limit."""
    limits = policy.tools.results
    if limits.media == "drop" and reading.kinds:
        reading = Reading(reading.without_media())
    most = limits.max_chars
    if most is None or len(reading.text) <= most or limits.longer == "block":
        return reading
    rest = f"\n[The rest, {len(reading.text) - most:,} characters, was left out by the policy {policy.id!r}.]"
    return replace(reading, text=reading.text[:most] + rest)


def _too_much(reading: Reading, policy: Policy) -> RuleOutcome | None:
    """The limit that `reading` breaks so that all of it is withheld."""
    limits = policy.tools.results
    if limits.media == "block" and reading.kinds:
        return RuleOutcome(
            "deny", "results.media", f"it holds {', '.join(dict.fromkeys(reading.kinds))}, not text only"
        )
    if limits.max_chars is not None and limits.longer == "block" and len(reading.text) > limits.max_chars:
        why = f"it has {len(reading.text):,} characters, more than {limits.max_chars:,}"
        return RuleOutcome("deny", "results.max_chars", why)
    return None


def _ground(decision: Decision) -> str:
    found = max(decision.verdict.findings, key=lambda finding: finding.probability, default=None)
    return found.category if found is not None else str(decision.verdict.error)


def _text_of(error: Exception) -> str:
    """All that somebody could show of `error`: what it says, its arguments, its notes."""
    said = str(error)
    others = [text for one in error.args if (text := str(one)) not in said]
    return "\n".join(part for part in (said, *others, *getattr(error, "__notes__", ())) if part)
