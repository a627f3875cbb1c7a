"""What the user said, judged once per message before a model sees it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from guardmw.checker import Checker
from guardmw.policy.schema import Policy
from guardmw.types import Check, Decision, Message, Redaction, Role

PLACEHOLDER = "[This message was removed.]"
"""Stands in a conversation for a user's message that was blocked."""

MEMORY = 4096
"""How many judged messages are remembered."""

SHOWN = 64
"""So many of the newest messages a guard is shown at least, and less than twice as many: a check must not cost more the
longer a conversation has grown."""

LOOKED_BACK = 1024
"""Among so many of the newest messages the user's newest is looked for, and then among as many of the oldest."""


@dataclass(frozen=True, slots=True)
class Screened:
    """The messages a model may see. `blocked` is set when one of the newest turn may not pass: then no model is to
    answer. Older messages that may not pass are replaced, so that the conversation can go on."""

    messages: list[BaseMessage]
    blocked: Decision | None = None


class Screen:
    """Judges user messages and remembers what was decided, per policy and text; failures are not remembered."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._seen: dict[tuple[str, bytes], Decision] = {}

    async def screen(self, messages: Sequence[BaseMessage], policy: Policy, agent: str) -> Screened:
        """`messages` with every HumanMessage judged on the surface ``input``. Text blocks are judged; images, audio and
        files pass."""
        places = [place for place, message in enumerate(messages) if isinstance(message, HumanMessage)]
        decisions = await asyncio.gather(*(self._decide(messages, place, policy, agent) for place in places))
        newest = max((place for place, message in enumerate(messages) if isinstance(message, AIMessage)), default=-1)
        passed = list(messages)
        blocked: Decision | None = None
        for place, decision in zip(places, decisions, strict=True):
            if decision is None:
                continue
            if decision.withheld:
                passed[place] = with_text(messages[place], PLACEHOLDER)
                blocked = decision if place > newest else blocked
            elif decision.enforced == "redact" and decision.redactions:
                passed[place] = redacted(messages[place], decision.redactions)
        return Screened(passed, blocked)

    async def _decide(self, messages: Sequence[BaseMessage], place: int, policy: Policy, agent: str) -> Decision | None:
        text = text_of(messages[place])
        if not text:
            return None
        key = (policy.hash, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        decision = self._seen.pop(key, None)
        if decision is None:
            check = Check("input", text, agent, conversation=conversation(messages[:place]))
            decision = await self._checker.check(check, policy=policy)
        if decision.verdict.error is None:
            self._seen[key] = _without_text(decision)
            if len(self._seen) > MEMORY:
                self._seen.pop(next(iter(self._seen)), None)
        return decision


def _without_text(decision: Decision) -> Decision:
    """What is worth remembering of `decision`: whole conversations are not."""
    return replace(decision, check=replace(decision.check, content="", conversation=()))


def text_of(message: BaseMessage) -> str:
    """The text a guard judges: all text blocks, one per line."""
    return "\n".join(text for _, text in _texts(message))


def with_text(message: BaseMessage, text: str) -> BaseMessage:
    """`message` saying `text` and nothing else, under the same id; attachments go too."""
    return message.model_copy(update={"content": text, "additional_kwargs": {}})


def redacted(message: BaseMessage, redactions: Sequence[Redaction]) -> BaseMessage:
    """`message` with `redactions`, whose positions count in `text_of(message)`, carried out where they belong."""
    if isinstance(message.content, str):
        return message.model_copy(update={"content": cut(message.content, 0, redactions)})
    content: list[Any] = list(message.content)
    start = 0
    for place, text in _texts(message):
        changed = cut(text, start, redactions)
        content[place] = changed if isinstance(content[place], str) else {**content[place], "text": changed}
        start += len(text) + 1
    return message.model_copy(update={"content": content})


def cut(text: str, start: int, redactions: Sequence[Redaction]) -> str:
    """`text`, which begins at `start`, redacted; a redaction that began before it only takes away."""
    for redaction in reversed(redactions):
        left, right = redaction.span[0] - start, redaction.span[1] - start
        if right > 0 and left < len(text):
            text = text[: max(left, 0)] + (redaction.replacement if left >= 0 else "") + text[right:]
    return text


def _texts(message: BaseMessage) -> Iterator[tuple[int, str]]:
    """(place in the content, text) of every piece that is text and not empty."""
    content = message.content
    for place, block in enumerate([content] if isinstance(content, str) else content):
        text = block if isinstance(block, str) else block.get("text") if isinstance(block, dict) else None
        if isinstance(text, str) and text:
            yield place, text


def conversation(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """`messages` as a guard sees them: at least the newest SHOWN, and of those before them the first and the user's
    newest. What isn't text is left out."""
    return tuple(
        Message(role, text) for message in _shown(messages) if (role := _role(message)) and (text := text_of(message))
    )


def _shown(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    # In strides: guards on a server keep what prompts have in common at their beginning.
    start = len(messages) // SHOWN * SHOWN - SHOWN
    if start <= 0:
        return messages
    return [*(messages[at] for at in sorted({0, _newest_of_user(messages)}) if at < start), *messages[start:]]


def _newest_of_user(messages: Sequence[BaseMessage]) -> int:
    """The place of the user's newest message among the LOOKED_BACK newest, else of the first one among as many oldest,
    0 without one."""
    places = range(len(messages))
    for at in chain(reversed(places[-LOOKED_BACK:]), places[:LOOKED_BACK]):
        if isinstance(messages[at], HumanMessage):
            return at
    return 0


def _role(message: BaseMessage | AnyMessage) -> Role | None:
    match message:
        case HumanMessage():
            return "user"
        case AIMessage():
            return "assistant"
        case SystemMessage():
            return "system"
        case ToolMessage():
            return "tool"
        case _:
            return None
