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


async def converse(model: BaseChatModel, middleware: GuardMiddleware, watch: Watch) -> None:
    """One conversation with the agent, consumed as most applications do: ``stream_mode="messages"``."""
    agent = create_agent(
        WatchedModel(inner=model, watch=watch),
        [look_up_order, opening_hours],
        system_prompt=SYSTEM_PROMPT,
        middleware=[middleware],
        name=AGENT,
    )
    question: Any = {"messages": [{"role": "user", "content": watch.user}]}
    stream: Any = agent.astream(question, stream_mode=["messages", "updates"])
    async with aclosing(stream) as events:
        async for mode, event in events:
            if mode == "messages":
                _shown(event[0], watch)
            else:
                _ran(event, watch)
    watch.ends()


def _shown(message: Any, watch: Watch) -> None:
    if isinstance(message, AIMessage | AIMessageChunk):
        watch.user_sees(message.text)


def _ran(update: dict[str, Any], watch: Watch) -> None:
    messages = [message for change in update.values() for message in (change or {}).get("messages", [])]
    for message in messages:
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                arguments = ", ".join(f"{name}={value!r}" for name, value in call["args"].items())
                watch.tool_ran(ToolUse(call["name"], arguments))
        elif isinstance(message, ToolMessage):
            waiting = (step for step in watch.steps if isinstance(step, ToolUse) and step.name == message.name)
            for use in waiting:
                use.result = use.result or message.text
