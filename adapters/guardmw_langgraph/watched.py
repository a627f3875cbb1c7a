"""A tool that judges what it returns, raises and writes, before LangChain's callbacks or anybody else hears of it.

Before it runs, it looks whether it is given what was admitted: a middleware inside the guard's may have changed that.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, Final

from langchain.agents.middleware import ToolCallRequest
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool, ToolException

from guardmw.errors import BlockedError
from guardmw_langgraph import sync
from guardmw_langgraph.admit import admit
from guardmw_langgraph.callmarks import call_of
from guardmw_langgraph.internals import bubbles_up
from guardmw_langgraph.results import Results
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.written import Writers

NOT_ARGUMENTS: Final = frozenset({"config", "run_manager", "runtime"})
"""What LangChain gives a tool beside its arguments."""


@dataclass(slots=True)
class _Watch:
    """A call that is being made: as it was admitted, what judges its results, and the refusal of what it was changed
    into since."""

    admitted: ToolCallRequest
    results: Results
    refused: ToolMessage | None = None

    def changed(self, tool: BaseTool, tool_input: Any) -> ToolCall | None:
        """The call that `tool` makes with `tool_input`, if it isn't the one that was admitted."""
        call = self.admitted.tool_call
        written, given = _arguments(tool, call["args"], tool_input)
        if (call["name"], written) == (tool.name, given):
            return None
        return {**call, "name": tool.name, "args": given}

    async def judged(self, call: ToolCall, tool_input: Any) -> Any:
        """What the tool runs with, now that its call was changed to `call`; or what stands in the place of a result."""
        late = await admit(self.results.seam, self.admitted.override(tool_call=call))
        if isinstance(late, ToolMessage):
            self.refused = late
            return late
        made = late.tool_call
        self.results.call = call_of(made)
        return tool_input if made["args"] == call["args"] else {**tool_input, **made["args"]}


_current: ContextVar[_Watch | None] = ContextVar("guardmw_watch", default=None)
_inside: ContextVar[int | None] = ContextVar("guardmw_watched", default=None)
"""The tool that is being watched: the async way of a tool often ends in its sync one."""


def is_guarded(tool: Any) -> bool:
    """Whether `tool` was made by `guard_tools`."""
    return isinstance(tool, BaseTool) and getattr(type(tool), "_guardmw_guarded", False)


async def arun_watched(tool: BaseTool, results: Results, run: Callable[..., Awaitable[Any]], kwargs: Any) -> Any:
    """What ``run(**kwargs)``, the work of `tool`, gives back, writes and raises, as the agent may see it."""
    writers = Writers(results.seam, results.call, asyncio.get_running_loop())
    try:
        with writers.installed(kwargs) as replaced:
            result = await run(**replaced)
    except Exception as error:
        await writers.flushed()
        failed = _handled(tool, error)
        if failed is None:
            safe = error if _passes(error) else await results.error(error)
        else:
            safe, failed = error, (failed[0], await results.answered(failed[0]))
    except BaseException:
        writers.cancel()
        raise
    else:
        await writers.flushed()
        return await _judged(tool, results, result)
    return _ended(tool, safe, failed)


def run_watched(tool: BaseTool, results: Results, run: Callable[..., Any], kwargs: Any) -> Any:
    """As `arun_watched`, for a thread in which no event loop runs."""
    writers = Writers(results.seam, results.call, sync.loop())
    try:
        with writers.installed(kwargs) as replaced:
            result = run(**replaced)
    except Exception as error:
        writers.flush()
        failed = _handled(tool, error)
        if failed is None:
            safe = error if _passes(error) else sync.run(results.error(error))
        else:
            safe, failed = error, (failed[0], sync.run(results.answered(failed[0])))
    except BaseException:
        writers.cancel()
        raise
    else:
        writers.flush()
        return sync.run(_judged(tool, results, result))
    return _ended(tool, safe, failed)


def _passes(error: Exception) -> bool:
    return isinstance(error, BlockedError) or bubbles_up(error)


def _handled(tool: BaseTool, error: Exception) -> tuple[Any, ...] | None:
    """What the tool itself makes of `error` for the model to read; None when it leaves it to others."""
    handle = tool.handle_tool_error
    if not isinstance(error, ToolException) or not handle:
        return None
    if callable(handle):
        try:
            return (handle(error),)
        except Exception:
            return None
    return (handle if isinstance(handle, str) else error.args[0] if error.args else "Tool execution error",)


def _ended(tool: BaseTool, error: Exception, handled: tuple[Any, ...] | None) -> Any:
    """Raises `error`, unless the tool answers it with something that was changed, which is returned in its place."""
    if handled is None or handled[0] is handled[1]:
        raise error
    return shaped(tool, handled[1])


async def _judged(tool: BaseTool, results: Results, result: Any) -> Any:
    if tool.response_format == "content_and_artifact" and isinstance(result, tuple) and len(result) == 2:
        content = await results.judged(result[0])
        return content, result[1] if content is result[0] else None
    return await results.judged(result)


def shaped(tool: BaseTool, content: Any) -> Any:
    """`content` as `tool` returns it."""
    return (content, None) if tool.response_format == "content_and_artifact" else content


async def ajudged_request(
    seam: Seam, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
) -> Any:
    """What `handler` makes of the admitted `request`, as the agent may see it; its tool is watched while it runs."""
    watch = _watch(seam, request)
    token = _current.set(watch)
    try:
        result = await handler(_watching(request))
    except Exception as error:
        safe = error if _passes(error) else await watch.results.error(error)
    else:
        return result if _is_refusal(result, watch) else await watch.results.judged(result)
    finally:
        _current.reset(token)
    raise safe


def judged_request(seam: Seam, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
    """As `ajudged_request`, for a thread in which no event loop runs."""
    watch = _watch(seam, request)
    token = _current.set(watch)
    try:
        result = handler(_watching(request))
    except Exception as error:
        safe = error if _passes(error) else sync.run(watch.results.error(error))
    else:
        return result if _is_refusal(result, watch) else sync.run(watch.results.judged(result))
    finally:
        _current.reset(token)
    raise safe


def _watch(seam: Seam, request: ToolCallRequest) -> _Watch:
    return _Watch(request, Results(seam, call_of(request.tool_call), ours=is_guarded(request.tool)))


def _is_refusal(result: Any, watch: _Watch) -> bool:
    return watch.refused is not None and bool(result == watch.refused)


def _arguments(tool: BaseTool, written: dict[str, Any], tool_input: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that were `written` and those in `tool_input`, both without what LangGraph injects."""
    given = tool_input if isinstance(tool_input, dict) else {"input": tool_input}
    if given == written:
        return written, given
    shown, injected = argument_names(tool)
    written = {name: value for name, value in written.items() if name not in injected}
    return written, {
        name: value for name, value in given.items() if name in written or (name in shown and name not in injected)
    }


def argument_names(tool: BaseTool) -> tuple[set[str], set[str]]:
    """The names of the arguments that `tool` shows to models, and of those that are injected."""
    schema = tool.tool_call_schema
    shown = set(schema.model_fields) if hasattr(schema, "model_fields") else set(tool.args)
    whole = set() if isinstance(tool.args_schema, dict) else set(getattr(tool.get_input_schema(), "model_fields", ()))
    return shown, (whole | NOT_ARGUMENTS) - shown


class _WatchedRequest(ToolCallRequest):
    """A request that watches its tool, and whatever tool a middleware further in puts in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _watched(value) if name == "tool" and isinstance(value, BaseTool) else value)


def _watching(request: ToolCallRequest) -> ToolCallRequest:
    return _WatchedRequest(**{field.name: getattr(request, field.name) for field in fields(ToolCallRequest)})


def _watched(tool: BaseTool) -> BaseTool:
    """A copy of `tool` that is watched, or itself if it is."""
    if getattr(type(tool), "_guardmw_watched", False):
        return tool
    copy = tool.model_copy()
    object.__setattr__(copy, "__class__", _watched_class(type(copy)))
    return copy


@functools.lru_cache(maxsize=256)
def _watched_class(cls: type[BaseTool]) -> type[BaseTool]:
    """A class of tools that look at what they are given, and judge what they do; guarded ones do that themselves."""
    members = {
        "arun": _watched_arun(cls),
        "run": _watched_run(cls),
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "_guardmw_watched": True,
    }
    if not getattr(cls, "_guardmw_guarded", False):
        members |= {"_arun": _judging_arun(cls), "_run": _judging_run(cls)}
    return type(cls.__name__, (cls,), members)


def _watched_arun(cls: type[BaseTool]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(cls.arun)
    async def arun(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        watch = _current.get()
        if watch is not None and (changed := watch.changed(self, tool_input)) is not None:
            tool_input = await watch.judged(changed, tool_input)
        return tool_input if isinstance(tool_input, ToolMessage) else await cls.arun(self, tool_input, *args, **kwargs)

    return arun


def _watched_run(cls: type[BaseTool]) -> Callable[..., Any]:
    @functools.wraps(cls.run)
    def run(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        watch = _current.get()
        if watch is not None and (changed := watch.changed(self, tool_input)) is not None:
            tool_input = sync.run(watch.judged(changed, tool_input))
        return tool_input if isinstance(tool_input, ToolMessage) else cls.run(self, tool_input, *args, **kwargs)

    return run


def _judging_arun(cls: type[BaseTool]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(cls._arun)
    async def _arun(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        watch = _current.get()
        if watch is None or _inside.get() == id(self):
            return await cls._arun(self, *args, **kwargs)
        token = _inside.set(id(self))
        try:
            return await arun_watched(self, watch.results, functools.partial(cls._arun, self, *args), kwargs)
        finally:
            _inside.reset(token)

    return _arun


def _judging_run(cls: type[BaseTool]) -> Callable[..., Any]:
    @functools.wraps(cls._run)
    def _run(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        watch = _current.get()
        if watch is None or _inside.get() == id(self):
            return cls._run(self, *args, **kwargs)
        token = _inside.set(id(self))
        try:
            return run_watched(self, watch.results, functools.partial(cls._run, self, *args), kwargs)
        finally:
            _inside.reset(token)

    return _run
