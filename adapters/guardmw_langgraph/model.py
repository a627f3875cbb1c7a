"""A chat model that says only what passed the guard, in whatever way it is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BaseModel, Field

from guardmw.guard.base import Guard
from guardmw.traces.record import Recorder
from guardmw_langgraph import sync
from guardmw_langgraph.internals import can_interrupt
from guardmw_langgraph.loop import Loop
from guardmw_langgraph.rewrap import rewrapped
from guardmw_langgraph.seam import PolicySource, Seam
from guardmw_langgraph.tools import is_guarded
from guardmw_langgraph.turn import Turn

_SEEN_FROM_OUTSIDE: Final = frozenset(
    {"deployment_name", "max_tokens", "model", "model_id", "model_name", "temperature", "use_responses_api"}
)
"""Attributes by which LangChain tells what a model can do."""

_CARRIED_OVER: Final = (
    "callbacks", "custom_get_token_ids", "disable_streaming", "metadata", "name", "output_version", "profile",
    "rate_limiter", "tags", "verbose",
)  # fmt: skip
"""Settings that act outside the inner model, on what may be seen."""

ToolLike = dict[str, Any] | type | Callable[..., Any] | BaseTool


class GuardedChatModel(BaseChatModel):
    """Wraps any chat model; made by `guard_model`.

    Streams hold text back until it was judged, then give it out unchanged; whole answers are judged before they are
    returned. Nobody is told of the inner call: its callbacks, tags and rate limit are this model's. LangChain's cache
    is not used, so that no policy serves what another one let pass. Every answer carries what was decided under
    ``response_metadata["guardmw"]``.
    """

    inner: BaseChatModel = Field(repr=False, exclude=True)
    seam: Seam = Field(repr=False, exclude=True)
    loop: Loop | None = Field(None, repr=False, exclude=True)
    answering: dict[str, BaseTool] = Field({}, repr=False, exclude=True)

    def __init__(self, inner: BaseChatModel, seam: Seam, loop: Loop | None = None, **fields: Any) -> None:
        carried = {name: getattr(inner, name) for name in _CARRIED_OVER if hasattr(inner, name)}
        super().__init__(**{"inner": inner, "seam": seam, "loop": loop, "cache": False, **carried, **fields})

    def __getattr__(self, name: str) -> Any:
        if name in _SEEN_FROM_OUTSIDE:
            return getattr(self.inner, name)
        return super().__getattr__(name)  # type: ignore[misc]

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        policies = ", ".join(self.seam.checker.policies.policies)
        return [("inner", type(self.inner).__name__), ("policies", policies)]

    @property
    def _llm_type(self) -> str:
        return self.inner._llm_type

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return dict(self.inner._identifying_params)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.inner._get_ls_params(stop=stop, **kwargs)

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        return self.inner._get_invocation_params(stop=stop, **kwargs)

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        return self.inner._combine_llm_outputs(llm_outputs)

    def get_token_ids(self, text: str) -> list[int]:
        return self.inner.get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[ToolLike] | None = None) -> int:
        return self.inner.get_num_tokens_from_messages(messages, tools)

    def bind_tools(self, tools: Sequence[ToolLike], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """As the inner model binds them, guarded. Raises UnguardedError when it hides itself where no guard can go.

        A call of a tool made by `guard_tools` that may not be made stays in the answer, without its arguments: the
        tool answers it, or asks a person.
        """
        guarded = {tool.name: tool for tool in tools if isinstance(tool, BaseTool) and is_guarded(tool)}
        return rewrapped(self.inner.bind_tools(tools, **kwargs), partial(self._twin, answering=guarded))

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """As the inner model does it, guarded before anything is parsed. A blocked answer fails to parse, and the
        parser sees the replacement only."""
        return rewrapped(self.inner.with_structured_output(schema, include_raw=include_raw, **kwargs), self._twin)

    async def aclose(self) -> None:
        """Closes the guard, if it was built from a name."""
        await self.seam.checker.aclose()

    def _twin(self, model: BaseChatModel, answering: dict[str, BaseTool] | None = None) -> BaseChatModel:
        """`model`, which the inner one made of itself, behind the same guard; `answering` are guarded tools."""
        if model is self.inner and not answering:
            return self
        return GuardedChatModel(model, self.seam, self.loop, answering=answering or self.answering)

    def _turn(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Turn:
        loop = self.loop
        if loop is None and self.answering:
            loop = Loop(self.answering, can_interrupt(), messages)
        return Turn(self.inner, self.seam, stop, kwargs, loop)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._guarded(messages, stop, kwargs)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in sync.iterate(self._guarded(messages, stop, kwargs)):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await (await self._begun(messages, stop, kwargs)).whole(messages)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return sync.run(self._agenerate(messages, stop, None, **kwargs))

    async def _guarded(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        turn = await self._begun(messages, stop, kwargs)
        async with aclosing(turn.streamed(messages)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _begun(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Turn:
        """The turn, with those of the tools bound to the model whose descriptions may be read; within an agent the
        middleware has seen to that."""
        tools, seam = kwargs.get("tools"), self.seam
        if self.loop is None and isinstance(tools, list | tuple):
            policy = await seam.checker.policy_for(seam.agent)
            kwargs = {**kwargs, "tools": await seam.descriptions.offered(tools, policy, seam.agent)}
        return self._turn(messages, stop, kwargs)


def guard_model(
    model: BaseChatModel,
    policy: PolicySource,
    *,
    guard: Guard | str = "embedded",
    agent: str | None = None,
    recorder: Recorder | None = None,
) -> GuardedChatModel:
    """`model` behind `guard`, for graphs written by hand: use it wherever the model was used.

    `policy` is a file or folder, the name of a bundled policy, a Policy or a PolicySet; `guard` a name or a Guard;
    `agent` the name by which the policy is chosen (None: the name of the `create_agent` that runs, else ``default``).
    `recorder` gets every decision.

    Every HumanMessage is judged before the model is asked; of the answer nothing is shown before it was judged.
    Raises PolicyError and GuardConfigError, and TypeError for what is no chat model (guard before you bind).
    """
    if not isinstance(model, BaseChatModel):
        raise TypeError(
            f"guard_model() takes a chat model, not {type(model).__name__}; "
            "guard the model first, then bind tools or add retries to what it returns"
        )
    return GuardedChatModel(model, Seam(policy, guard, agent, recorder))
