"""The guard as middleware of `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
    ToolCallRequest,
    hook_config,
)
from langchain.agents.structured_output import StructuredOutputError
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.runtime import Runtime
from langgraph.types import Command

from guardmw.errors import UnguardedError
from guardmw.guard.base import Guard
from guardmw.telemetry.metrics import stream_bypassed
from guardmw.traces.record import Recorder
from guardmw_langgraph import sync
from guardmw_langgraph.admit import admit, messages_in
from guardmw_langgraph.callmarks import MARK
from guardmw_langgraph.rejected import refused_tool
from guardmw_langgraph.request import guarded_request
from guardmw_langgraph.seam import PolicySource, Seam, blocked_text, ends_run
from guardmw_langgraph.settle import ended, settled
from guardmw_langgraph.watched import ajudged_request, judged_request

Update = dict[str, Any] | None


class GuardMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Guards an agent: what the user says, what the model thinks, says and calls, and what tools return.

    `policy` is a file or folder, the name of a bundled policy, a Policy or a PolicySet; `guard` a name or a Guard;
    `agent` the name by which the policy is chosen (None: the agent's own name, else ``default``); `recorder` gets
    every decision. Raises PolicyError and GuardConfigError when built.

    A user's message that may not pass is replaced in the state, under its id, and the run ends with the policy's
    text; LangGraph writes the message itself to the first checkpoint of a run before any middleware is asked.
    A tool call that may not be made reaches the state without its arguments, with a message that tells the agent why
    and what would be allowed; one that a person is to decide about interrupts the graph, which needs a checkpointer
    for that. What a tool returned is judged before it reaches the state.

    What tools say of themselves is judged before the model is told of them, what they write to the graph's streams
    before anybody reads it.

    What it can't reach: models that other middleware calls for itself, to summarise for instance, are guarded by
    `guard_model` only. Images, audio and files can't be judged. The schema of structured output counts as a tool of
    that name for the policy's tool rules.

    Put it last in the list of middleware: then it sees every model that the others choose. Further out it guards
    those too, but an answer that an inner middleware gives without asking the model raises UnguardedError. A call that
    one rewrites is judged again as it runs; a tool that one puts in the place of another runs unjudged.
    """

    def __init__(
        self,
        policy: PolicySource,
        *,
        guard: Guard | str = "embedded",
        agent: str | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__()
        self.seam = Seam(policy, guard, agent, recorder)

    async def aclose(self) -> None:
        """Closes the guard, if it was built here from a name."""
        await self.seam.checker.aclose()

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> Update:
        return sync.run(self.abefore_agent(state, runtime))

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> Update:
        agent = self.seam.agent
        policy = await self.seam.checker.policy_for(agent)
        messages = state["messages"]
        screened = await self.seam.screen.screen(messages, policy, agent)
        changed: list[BaseMessage] = [
            now for before, now in zip(messages, screened.messages, strict=True) if now is not before
        ]
        if screened.blocked is not None:
            mark = self.seam.mark(policy, agent, screened.blocked, altered=True)
            return {"messages": [*changed, _reply(blocked_text(policy, screened.blocked), mark)], "jump_to": "end"}
        return {"messages": changed} if changed else None

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> Update:
        return sync.run(self.aafter_model(state, runtime))

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> Update:
        """Asks people, tells the agent of calls that are not made, and ends the run after a blocked answer: an agent
        that waits for structured output would ask again."""
        messages = state["messages"]
        if messages and ends_run(messages[-1]):
            return {"jump_to": "end"}
        return await settled(self.seam, messages) if messages else None

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        if (closing := sync.run(ended(self.seam, messages_in(request.state)))) is not None:
            return ModelResponse(result=[closing])
        request = sync.run(self._offering(request))
        try:
            response = handler(guarded_request(request, self.seam))
        except StructuredOutputError as error:
            response = _unparsed(error)
        return self._verified(response)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        if (closing := await ended(self.seam, messages_in(request.state))) is not None:
            return ModelResponse(result=[closing])
        request = await self._offering(request)
        try:
            response = await handler(guarded_request(request, self.seam))
        except StructuredOutputError as error:
            response = _unparsed(error)
        return self._verified(response)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        admitted = sync.run(self._admitted(request))
        if isinstance(admitted, ToolMessage):
            return admitted
        return judged_request(self.seam, admitted, handler)  # type: ignore[no-any-return]

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        admitted = await self._admitted(request)
        if isinstance(admitted, ToolMessage):
            return admitted
        return await ajudged_request(self.seam, admitted, handler)  # type: ignore[no-any-return]

    async def _admitted(self, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
        refused = await refused_tool(self.seam, request.tool, request.tool_call["id"])
        return refused or await admit(self.seam, request)

    async def _offering(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """`request` with the tools whose descriptions may be read."""
        agent = self.seam.agent
        policy = await self.seam.checker.policy_for(agent)
        tools = await self.seam.descriptions.offered(request.tools, policy, agent)
        return request if len(tools) == len(request.tools) else request.override(tools=tools)

    def _verified(self, response: ModelResponse[Any]) -> ModelResponse[Any]:
        """`response`, if all the model said in it passed this guard. Raises UnguardedError otherwise."""
        for message in response.result:
            if isinstance(message, AIMessage) and not self.seam.guarded(message):
                stream_bypassed(self.seam.agent)
                raise UnguardedError(
                    "an answer reached the agent that this GuardMiddleware never saw: a middleware after it in the "
                    "list replaced the model or answered itself. Put GuardMiddleware last in the list of middleware"
                )
        return response


def _reply(text: str, mark: dict[str, Any]) -> AIMessage:
    return AIMessage(text, response_metadata={"finish_reason": "content_filter", MARK: mark})


def _unparsed(error: StructuredOutputError) -> ModelResponse[Any]:
    """The blocked answer that couldn't be parsed for being blocked. Raises `error` when that wasn't the reason."""
    message: BaseMessage | None = getattr(error, "ai_message", None)
    if message is None or not ends_run(message):
        raise error
    return ModelResponse(result=[message])
