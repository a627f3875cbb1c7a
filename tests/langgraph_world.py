"""Ways to consume an agent, things that may go wrong in it, and everybody who might overhear it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver

from guardmw.checker import Checker
from guardmw.policy.schema import Category, Detectors, PiiDetector, Policy, Streaming
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import guard_model

FORBIDDEN = "XYZZY"
MAIL = "jane.doe@example.com"
REPLACEMENT = "I can't help with that."
BAD = f"It is fine so far, and then comes {FORBIDDEN} and a lot more that nobody should have to pay for."
UNAVAILABLE = "This could not be checked just now, so it is not shown."


def policy(**changes: Any) -> Policy:
    """One category on every surface, email redacted, small chunks."""
    fields: dict[str, Any] = {
        "id": "test",
        "categories": (Category(id="forbidden", title="Forbidden", unsafe_when="The text says the magic word."),),
        "detectors": Detectors(pii=PiiDetector(entities=("email",))),
        "streaming": Streaming(first_chunk=2, chunk=6, max_hold_ms=50),
    }
    return Policy(**{**fields, **changes})


Checker(policy(), guard=FakeGuard())  # reads detectors from disk now: most tests build theirs inside an event loop


def guarded(model: BaseChatModel, **changes: Any) -> Any:
    """`model` behind a guard that knows the forbidden word, under `policy(**changes)`."""
    return guard_model(model, policy(**changes), guard=FakeGuard(FORBIDDEN))


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    """The message that `chunks` add up to."""
    return sum(chunks[1:], chunks[0])


@dataclass
class Overheard(BaseCallbackHandler):
    """Keeps whatever LangChain tells a callback handler."""

    heard: list[str] = field(default_factory=list)
    run_inline = True

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            heard = object.__getattribute__(self, "heard")
            return lambda *args, **kwargs: heard.append(f"{name} {args!r} {kwargs!r}")
        return super().__getattribute__(name)

    def __hash__(self) -> int:
        return id(self)


class Traced(BaseTracer):
    """Keeps every run as a tracing service would get it, when it starts, at every token and when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self._on_run_update(run)

    def _on_run_create(self, run: Run) -> None:
        self._on_run_update(run)

    def _on_run_update(self, run: Run) -> None:
        self.heard.append(repr((run.name, run.inputs, run.outputs, run.events, run.error, run.serialized, run.extra)))


@dataclass(frozen=True)
class Scenario:
    """What a model says, and what may be seen of it. `leak` must be seen nowhere. Where an agent is told of a refused
    call and goes on, it ends with `goes_on`."""

    name: str
    turns: list[Any]
    ends_with: str
    leak: str = FORBIDDEN
    guard: Callable[[], FakeGuard] = lambda: FakeGuard(FORBIDDEN)
    policy: Policy = field(default_factory=policy)
    exactly: str | None = None
    goes_on: str | None = None

    def model(self) -> ScriptedChatModel:
        return ScriptedChatModel(self.turns)


def _reasoning(*parts: str) -> list[AIMessageChunk]:
    return [AIMessageChunk(content="", additional_kwargs={"reasoning_content": part}) for part in parts]


def _thinking(*parts: str) -> list[AIMessageChunk]:
    return [AIMessageChunk(content=[{"type": "thinking", "thinking": part, "index": 0}]) for part in parts]


def _block(text: str, index: int = 1) -> AIMessageChunk:
    return AIMessageChunk(content=[{"type": "text", "text": text, "index": index}])


def _logprobs(text: str) -> AIMessageChunk:
    return AIMessageChunk(content=text, response_metadata={"logprobs": {"content": [{"token": text, "logprob": -0.1}]}})


CLEAN = "Of  course.\n\nHere is   what you asked for:\t42 — ünïcödé \U0001f600, and then some more to fill chunks. "

SCENARIOS = [
    Scenario("clean", [CLEAN], CLEAN, leak="\0never", exactly=CLEAN),
    Scenario(
        "violation", [f"Well, let me think about it for a while. The word is {FORBIDDEN} and so on."], REPLACEMENT
    ),
    Scenario(
        "violation at the end", [f"Well, let me think about it for a while. The word is {FORBIDDEN}"], REPLACEMENT
    ),
    Scenario("violation split", [["Well, the word is X", "Y", "ZZ", "Y", " and more"]], REPLACEMENT),
    Scenario(
        "pii split",
        [["Write to ja", "ne.d", "oe@exa", "mple.c", "om, please."]],
        "Write to [EMAIL], please.",
        leak=MAIL,
        exactly="Write to [EMAIL], please.",
    ),
    Scenario("reasoning", [[*_reasoning("They ask for", f" the word {FORBIDDEN}", " so"), "Hello"]], REPLACEMENT),
    Scenario("thinking block", [[*_thinking("They ask for", f" {FORBIDDEN} so"), _block("Hello")]], REPLACEMENT),
    Scenario(
        "reasoning pii", [[*_reasoning("Their mail is jane.doe", "@example.com"), "Hello you"]], "Hello you", leak=MAIL
    ),
    Scenario(
        "tool call",
        [["Calling.", {"name": "lookup", "args": {"query": f"about {FORBIDDEN}"}}], "I was not let."],
        REPLACEMENT,
        goes_on="I was not let.",
    ),
    Scenario("logprobs", [[_logprobs("Sure "), _logprobs(f"it is {FORBIDDEN} ok")]], REPLACEMENT),
    Scenario(
        "guard dies",
        [f"One sentence that is fine. Another sentence with more words in it, {FORBIDDEN}, and a third."],
        UNAVAILABLE,
        guard=lambda: FakeGuard(FORBIDDEN, fail="error", fail_after=1),
    ),
    Scenario(
        "guard talks garbage",
        [f"{FORBIDDEN} it is"],
        UNAVAILABLE,
        guard=lambda: FakeGuard(fail="garbage", fail_after=1),
    ),
]

Consume = Callable[[Any, Any, Any], Awaitable[list[Any]]]


async def _collected(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


async def _in_thread(items: Callable[[], Iterable[Any]]) -> list[Any]:
    return await asyncio.to_thread(lambda: list(items()))


def _astream(**kwargs: Any) -> Consume:
    return lambda agent, given, config: _collected(agent.astream(given, config, **kwargs))


def _stream(**kwargs: Any) -> Consume:
    return lambda agent, given, config: _in_thread(lambda: agent.stream(given, config, **kwargs))


def _aevents(version: str) -> Consume:
    async def consume(agent: Any, given: Any, config: Any) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return await _collected(agent.astream_events(given, config, version=version))

    return consume


async def _ainvoke(agent: Any, given: Any, config: Any) -> list[Any]:
    return [await agent.ainvoke(given, config)]


async def _aevents_v3(agent: Any, given: Any, config: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = await agent.astream_events(given, config, version="v3")
        events = await _collected(run)
        return [*events, await run.output()]


async def _events_v3(agent: Any, given: Any, config: Any) -> list[Any]:
    def consume() -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(agent.stream_events(given, config, version="v3"))

    return await asyncio.to_thread(consume)


ALL_MODES = ["messages", "updates", "values", "custom", "tasks", "debug"]
CONSUMERS: dict[str, Consume] = {
    "ainvoke": _ainvoke,
    "invoke": lambda agent, given, config: _in_thread(lambda: [agent.invoke(given, config)]),
    "abatch": lambda agent, given, config: agent.abatch([given], config),
    "batch": lambda agent, given, config: _in_thread(lambda: agent.batch([given], config)),
    "astream messages": _astream(stream_mode="messages"),
    "astream updates": _astream(stream_mode="updates"),
    "astream values": _astream(stream_mode="values"),
    "astream custom": _astream(stream_mode="custom"),
    "astream all": _astream(stream_mode=ALL_MODES),
    "astream all, subgraphs": _astream(stream_mode=ALL_MODES, subgraphs=True),
    "stream messages": _stream(stream_mode="messages"),
    "stream all, subgraphs": _stream(stream_mode=ALL_MODES, subgraphs=True),
    "astream_events v1": _aevents("v1"),
    "astream_events v2": _aevents("v2"),
    "astream_events v3": _aevents_v3,
    "stream_events v3": _events_v3,
}


@dataclass
class World:
    """A run of an agent with everybody listening."""

    saver: InMemorySaver = field(default_factory=InMemorySaver)
    callbacks: Overheard = field(default_factory=Overheard)
    tracer: Traced = field(default_factory=Traced)
    config: Any = field(init=False)

    def __post_init__(self) -> None:
        self.config = {"configurable": {"thread_id": "1"}, "callbacks": [self.callbacks, self.tracer]}

    def overheard(self) -> dict[str, str]:
        """Everything anybody got, by who got it."""
        return {
            "callbacks": "\n".join(self.callbacks.heard),
            "tracer": "\n".join(self.tracer.heard),
            "checkpoints": repr((dict(self.saver.storage), dict(self.saver.writes), dict(self.saver.blobs))),
        }


async def consumed(how: str, agent: Any, world: World, text: str = "Hello") -> str:
    """Consumes `agent` in the way `how`; all that was yielded."""
    return repr(await CONSUMERS[how](agent, {"messages": [("user", text)]}, world.config))


def assert_unheard(leak: str, yielded: str, world: World) -> None:
    for who, what in {"the consumer": yielded, **world.overheard()}.items():
        assert leak not in what, f"{who} got {leak!r}: …{what[max(0, what.index(leak) - 300) : what.index(leak) + 60]}…"


def said(message: Any) -> str:
    """The text of a message, whatever shape its content has."""
    return str(message.text)
