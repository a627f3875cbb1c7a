"""The demo's agent: LangGraph, two tools, any chat model, guarded by GuardMiddleware and watched at both ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ConfigDict

from guardmw.commands.demo.watch import ToolUse, Watch
from guardmw.errors import GuardConnectionError
from guardmw.guard.base import Guard
from guardmw.policy.schema import Policy
from guardmw.types import Check, Verdict
from guardmw_langgraph import GuardMiddleware
from guardmw_langgraph.rewrap import rewrapped

SYSTEM_PROMPT = "You are the support agent of a shop. Answer in a few sentences."
AGENT = "support"


@tool
def look_up_order(order_id: str) -> str:
    """Look up an order by its number."""
    return f"Order {order_id}: one lamp, packed on Monday, delivery expected on Thursday."


@tool
def opening_hours(day: str) -> str:
    """Say when the shop is open on a day of the week."""
    return f"On {day} the shop is open from nine to six."


class WatchedModel(BaseChatModel):
    """Tells the watch what the model generates, before any guard saw it. A demo's privilege: an application has no
    such place, since the guard sits on the model itself."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: BaseChatModel
    watch: Any

    @property
    def _llm_type(self) -> str:
        return self.inner._llm_type

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        return rewrapped(
            self.inner.bind_tools(tools, **kwargs), lambda model: WatchedModel(inner=model, watch=self.watch)
        )

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self.inner._generate(messages, *args, **kwargs)

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.watch.model_begins()
        source = self.inner._astream(messages, *args, **kwargs)
        async for chunk in source:
            self.watch.model_says(chunk.text)
            yield chunk


class MortalGuard:
    """A guard whose server goes down: fails from its `checks_left`-th check of an answer on."""

    def __init__(self, guard: Guard, checks_left: int) -> None:
        self.name, self.version = guard.name, guard.version
        self._guard, self._checks_left = guard, checks_left

    async def check(self, check: Check, policy: Policy) -> Verdict:
        if check.surface == "output":
            if self._checks_left == 0:
                raise GuardConnectionError("the guard's server is gone")
            self._checks_left -= 1
        return await self._guard.check(check, policy)

    async def aclose(self) -> None:
        await self._guard.aclose()


async def converse(
    model: BaseChatModel,
    middleware: GuardMiddleware,
    watch: Watch,
    tools: Sequence[Any] = (),
    people: Sequence[Any] = (),
) -> None:
    """One conversation with the agent, consumed as most applications do: ``stream_mode="messages"``. Each time a
    person is asked, the next of `people` answers."""
    agent = create_agent(
        WatchedModel(inner=model, watch=watch),
        [*(tools or (look_up_order, opening_hours))],
        system_prompt=SYSTEM_PROMPT,
        middleware=[middleware],
        name=AGENT,
        checkpointer=InMemorySaver() if people else None,
    )
    given: Any = {"messages": [{"role": "user", "content": watch.user}]}
    answers = iter(people)
    while given is not None:
        asked = await _consumed(agent, given, watch)
        decisions = next(answers, None) if asked else None
        given = None if decisions is None else Command(resume={"decisions": decisions})
        for use, decision in zip(asked, decisions or (), strict=False):
            note = decision.get("message", "")
            use.asked = f"a person was asked: {decision['type']}{f' ({note})' if note else ''}"
    watch.ends()


async def _consumed(agent: Any, given: Any, watch: Watch) -> list[ToolUse]:
    """Streams one run to its end or its interrupt; the calls that a person is asked about."""
    asked: list[ToolUse] = []
    stream = agent.astream(given, {"configurable": {"thread_id": "demo"}}, stream_mode=["messages", "updates"])
    async with aclosing(stream) as events:
        async for mode, event in events:
            if mode == "messages":
                _shown(event[0], watch)
            elif interrupts := event.get("__interrupt__"):
                asked = _asked(interrupts[0].value, watch)
            else:
                _ran(event, watch)
    return asked


def _shown(message: Any, watch: Watch) -> None:
    if isinstance(message, AIMessage | AIMessageChunk):
        watch.user_sees(message.text)


def _asked(request: dict[str, Any], watch: Watch) -> list[ToolUse]:
    """The newest calls that are like those of `request`."""
    uses = [step for step in watch.steps if isinstance(step, ToolUse) and not step.asked]
    names = [action["name"] for action in request["action_requests"]]
    asked = [use for use in uses if use.name in names and not use.result][-len(names) :]
    for use in asked:
        use.asked = "a person is asked …"
    return asked


def _ran(update: dict[str, Any], watch: Watch) -> None:
    messages = [message for change in update.values() for message in (change or {}).get("messages", [])]
    for message in messages:
        if isinstance(message, AIMessage):
            _called(message, watch)
        elif isinstance(message, ToolMessage) and (use := watch.tool_use(message.tool_call_id)) is not None:
            use.result = use.result or message.text
            use.refused = message.status == "error"


def _called(message: AIMessage, watch: Watch) -> None:
    for call in message.tool_calls:
        arguments = ", ".join(f"{name}={value!r}" for name, value in call["args"].items())
        use = watch.tool_use(call["id"])
        if use is None:
            watch.tool_ran(ToolUse(call["name"], arguments, id=call["id"]))
        else:  # the same message again: a person changed the call
            use.arguments = arguments
