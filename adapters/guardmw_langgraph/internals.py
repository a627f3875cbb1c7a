"""Everything here leans on a part of LangChain that isn't documented for users; each piece says why it must.

Checked against langchain-core 1.7 and langgraph 1.2. What an older or newer version lacks is skipped, never guessed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.tracers import context as tracers
from langchain_core.utils._merge import merge_dicts  # how LangChain itself adds up the metadata of chunks
from langgraph import errors as graph_errors
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolRuntime
from langgraph.types import interrupt
from langsmith.run_helpers import _set_tracing_context
from pydantic import AfterValidator, WithJsonSchema

from guardmw.errors import ApprovalError

try:
    from langgraph.pregel._tools import _tool_call_writer
except ImportError:  # versions without the stream mode "tools"
    _tool_call_writer = None  # type: ignore[assignment]

__all__ = [
    "InContext",
    "Write",
    "asked_until_usable",
    "bubbles_up",
    "can_interrupt",
    "hidden_context",
    "interrupted",
    "iterate_in",
    "may_stream",
    "merge_dicts",
    "prefers_streaming",
    "running_agent",
    "running_task",
    "with_writers",
]

Result = TypeVar("Result")
Item = TypeVar("Item")


def hidden_context() -> Context:
    """A copy of the current context in which LangChain knows of no run, callback, tracer or graph.

    The inner model's text is not judged yet, so nobody may be told of it. Passing no callbacks is not enough: what a
    model calls while it answers (a router calls another model) inherits the caller's handlers from these variables.
    """
    context = copy_context()
    context.run(_forget)
    return context


def _forget() -> None:
    var_child_runnable_config.set(None)  # callbacks, stream handlers and metadata of the running graph
    _set_tracing_context({"parent": None, "enabled": False})  # LangSmith, whatever the environment says
    tracers.tracing_v2_callback_var.set(None)
    for variable in _hook_variables():
        variable.set(None)


def _hook_variables() -> list[ContextVar[Any]]:
    """The variables through which `collect_runs`, usage counters and third parties add handlers to every call."""
    return [hook[0] for hook in getattr(tracers, "_configure_hooks", [])]


class InContext(Awaitable[Result]):
    """Awaits something with every one of its steps run in `context`, in the task that awaits it.

    A task of its own would do it too, but puts a queue between the model and whoever closes it.
    """

    def __init__(self, awaitable: Awaitable[Result], context: Context) -> None:
        self._awaitable, self._context = awaitable, context

    def __await__(self) -> Generator[Any, Any, Result]:
        steps = self._context.run(self._awaitable.__await__)
        run, resume = self._context.run, steps.send
        value: Any = None
        while True:
            try:
                pending = run(resume, value)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            try:
                value, resume = (yield pending), steps.send
            except BaseException as error:
                value, resume = error, steps.throw


async def iterate_in(context: Context, source: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """`source`, run in `context` and closed there when this is closed."""
    try:
        while True:
            try:
                yield await InContext(anext(source), context)
            except StopAsyncIteration:
                return
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await InContext(close(), context)


def prefers_streaming(model: BaseChatModel, kwargs: dict[str, Any]) -> bool:
    """Whether `model` would stream even when asked for a whole answer (``streaming=True``)."""
    return model._should_stream(async_api=True, run_manager=None, **kwargs)


def may_stream(model: BaseChatModel, kwargs: dict[str, Any]) -> bool:
    """Whether `model` can stream and wasn't told not to (``disable_streaming``)."""
    return model._should_stream(async_api=True, run_manager=None, **{**kwargs, "stream": True})


def running_agent() -> str | None:
    """The name given to the `create_agent` that is running, which it leaves in the metadata of the run."""
    name = (ensure_config().get("metadata") or {}).get("lc_agent_name")
    return name if isinstance(name, str) and name else None


def can_interrupt() -> bool:
    """Whether the graph that is running keeps checkpoints, without which nobody could answer an interrupt."""
    saver = (ensure_config().get("configurable") or {}).get("__pregel_checkpointer")
    return saver is not None and saver is not False


_ANSWERS: dict[str, Any] = {
    "type": "object",
    "required": ["decisions"],
    "properties": {"decisions": {"type": "array", "items": {"type": "object", "required": ["type"]}}},
}


def interrupted(value: dict[str, Any], check: Callable[[Any], object]) -> Any:
    """What the run is resumed with after it was interrupted with `value`; `check` raises for what can't be used.

    Newer versions of LangGraph check an answer before they keep it: resuming with a bad one raises, and the request
    can be answered again. Older ones know no `response_schema`: there it is asked again.
    """
    if "response_schema" not in inspect.signature(interrupt).parameters:
        return asked_until_usable(value, check)
    checked = Annotated[Any, AfterValidator(lambda answer: (check(answer), answer)[1]), WithJsonSchema(_ANSWERS)]
    return interrupt(value, response_schema=checked)


def asked_until_usable(value: dict[str, Any], check: Callable[[Any], object]) -> Any:
    """As `interrupted`, where every answer is kept: after a bad one the graph is interrupted again, with the same
    request and the `problem` there was."""
    answer = interrupt(value)
    while problem := _problem(answer, check):
        answer = interrupt({**value, "problem": problem})
    return answer


def _problem(answer: Any, check: Callable[[Any], object]) -> str:
    try:
        check(answer)
    except ApprovalError as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """The task of a graph that is running now. `attempt` is one object for all that runs in one attempt of it;
    `messages` are those of the graph's state (None: it keeps none under that name); `alone` is set when the task was
    given one call of a message to run, and not all of them."""

    attempt: object
    messages: list[BaseMessage] | None
    alone: bool


def running_task() -> RunningTask | None:
    """The task that is running, None outside a graph. A tool has no other way to see the state it is called in."""
    config = ensure_config()
    configurable = config.get("configurable") or {}
    read, attempt = configurable.get("__pregel_read"), configurable.get("__pregel_scratchpad")
    if read is None or attempt is None:
        return None
    try:
        messages = read("messages")
    except (KeyError, ValueError):
        messages = None
    path: Any = (config.get("metadata") or {}).get("langgraph_path")
    found = list(messages) if isinstance(messages, list | tuple) else None
    return RunningTask(attempt, found, alone=bool(path) and path[0] == "__pregel_push")


Write = Callable[[Any], None]
"""How a tool writes to a stream of the graph."""


@contextmanager
def with_writers(gated: Callable[[Write], Write], kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`kwargs` of a tool, and the context it runs in, with every writer to the graph's streams put behind `gated`.

    A tool finds writers in its injected ToolRuntime, by `get_stream_writer()`, and behind `emit_output_delta`.
    """
    config = var_child_runnable_config.get()
    token = var_child_runnable_config.set(_gated_config(config, gated)) if config else None
    delta = _tool_call_writer.get() if _tool_call_writer is not None else None
    delta_token = _tool_call_writer.set(gated(delta)) if delta is not None else None
    try:
        yield {name: _gated_argument(value, gated) for name, value in kwargs.items()}
    finally:
        if token is not None:
            var_child_runnable_config.reset(token)
        if delta_token is not None:
            _tool_call_writer.reset(delta_token)


def _gated_argument(value: Any, gated: Callable[[Write], Write]) -> Any:
    if isinstance(value, ToolRuntime):
        writer = gated(value.stream_writer)
        return dataclasses.replace(value, stream_writer=writer, config=_gated_config(value.config, gated))
    return _gated_config(value, gated) if isinstance(value, dict) and "configurable" in value else value


def _gated_config(config: Any, gated: Callable[[Write], Write]) -> Any:
    configurable = config.get("configurable") or {}
    runtime = configurable.get("__pregel_runtime")
    if runtime is None or not hasattr(runtime, "override"):
        return config
    behind = runtime.override(stream_writer=gated(runtime.stream_writer))
    return {**config, "configurable": {**configurable, "__pregel_runtime": behind}}


def bubbles_up(error: BaseException) -> bool:
    """Whether `error` is how the graph itself is told something (an interrupt, a bad answer to one), not a failure."""
    is_invalid_resume = getattr(graph_errors, "is_invalid_resume", None)
    return isinstance(error, GraphBubbleUp) or bool(is_invalid_resume is not None and is_invalid_resume(error))
