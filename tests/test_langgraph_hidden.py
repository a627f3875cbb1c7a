"""Nobody is told of the inner model, and what is seen of the guarded one gives nothing away."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs, tracing_v2_enabled
from langsmith import tracing_context
from pydantic import SecretStr

from guardmw.testing import FakeGuard, ScriptedChatModel, collect
from guardmw_langgraph import GuardMiddleware, guard_model
from langgraph_world import BAD, CLEAN, FORBIDDEN, REPLACEMENT, Overheard, Traced, guarded, policy


class Router(BaseChatModel):
    """A model that asks another one through its public methods, which inherit callbacks."""

    other: BaseChatModel

    @property
    def _llm_type(self) -> str:
        return "router"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.other.invoke(messages))])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=await self.other.ainvoke(messages))])

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self.other.astream(messages):
            yield ChatGenerationChunk(message=chunk)


@pytest.mark.parametrize("way", ["ainvoke", "astream", "invoke", "stream", "v2"])
async def test_models_inside_the_inner_model_are_hidden_too(way: str) -> None:
    callbacks, tracer, langsmith = Overheard(), Traced(), Traced()
    model = guarded(Router(other=ScriptedChatModel([BAD])))
    node = RunnableLambda(lambda text: text) | model
    config: Any = {"callbacks": [callbacks, tracer]}
    client: Any = _Client(langsmith)
    with collect_runs() as runs, tracing_v2_enabled(client=client):
        match way:
            case "astream":
                await collect(node.astream("Hello", config))
            case "v2":
                await collect(node.astream_events("Hello", config, version="v2"))
            case "ainvoke":
                await node.ainvoke("Hello", config)
            case _:
                await asyncio.to_thread(lambda: list(getattr(node, way)("Hello", config)))
    for heard in (callbacks.heard, tracer.heard, langsmith.heard, runs.traced_runs):
        assert heard
        assert FORBIDDEN not in repr(heard)
    assert "ScriptedChatModel" not in repr(tracer.heard)


class _Client:
    """The part of a LangSmith client that tracers use."""

    tracing_queue = None

    def __init__(self, traced: Traced) -> None:
        self._traced = traced

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._traced.heard.append(repr((name, args, kwargs)))


async def test_the_global_cache_neither_stores_nor_serves() -> None:
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        model = ScriptedChatModel([BAD, CLEAN, BAD])
        answers = [(await guarded(model).ainvoke("Hello")).text for _ in range(3)]
        assert answers == [REPLACEMENT, CLEAN, REPLACEMENT]
        assert cache._cache == {}
    finally:
        set_llm_cache(None)


async def test_langsmith_gets_guarded_text_only() -> None:
    traced = Traced()
    middleware = GuardMiddleware(policy(), guard=FakeGuard(FORBIDDEN))
    agent: Any = create_agent(ScriptedChatModel([BAD, BAD]), middleware=[middleware])
    with tracing_context(enabled=True, client=_Client(traced)):  # type: ignore[arg-type]
        await collect(agent.astream({"messages": [("user", "Hello")]}, stream_mode="messages"))
        await asyncio.to_thread(lambda: agent.invoke({"messages": [("user", "Hello")]}))
    assert "help with that" in repr(traced.heard)
    assert FORBIDDEN not in repr(traced.heard)


class Secretive(ScriptedChatModel):
    model_name: str = "gpt-5-secretive"
    api_key: SecretStr = SecretStr("sk-very-secret")
    note: str = "sk-in-plain-sight"


def test_it_looks_like_the_model_it_guards() -> None:
    inner = Secretive(turns=[CLEAN], profile={"structured_output": True}, tags=["t"])
    model = guarded(inner)
    assert (model.model_name, model._llm_type, model.profile) == ("gpt-5-secretive", "scripted", inner.profile)
    assert model._get_ls_params() == inner._get_ls_params()
    assert model.asdict() == inner.asdict()
    assert not hasattr(model, "api_key")
    assert "sk-" not in repr(model) + str(model._serialized) + json.dumps(model.model_dump(), default=str)


def test_copies_and_pickles() -> None:
    model = guard_model(ScriptedChatModel([BAD] * 4), policy(), guard="detectors")
    for twin in (copy.copy(model), copy.deepcopy(model), model.model_copy(deep=True)):
        assert twin.seam is model.seam
    assert isinstance(pickle.loads(pickle.dumps(model)).invoke("Hello"), AIMessage)
