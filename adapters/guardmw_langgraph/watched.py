"""A tool that judges what it returns, raises and writes, before LangChain's callbacks or anybody else hears of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from langchain.agents.middleware import ToolCallRequest
from langchain_core.tools import BaseTool, ToolException

from guardmw.errors import BlockedError
from guardmw_langgraph import sync
from guardmw_langgraph.held import call_of
from guardmw_langgraph.internals import bubbles_up
from guardmw_langgraph.results import Results
from guardmw_langgraph.seam import Seam
from guardmw_langgraph.written import Writers

_current: ContextVar[Results | None] = ContextVar("guardmw_results", default=None)
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
    """What `handler` makes of `request`, as the agent may see it; its tool is watched while it runs."""
    results = _results(seam, request)
    token = _current.set(results)
    try:
        result = await handler(_watching(request))
    except Exception as error:
        safe = error if _passes(error) else await results.error(error)
    else:
        return await results.judged(result)
    finally:
        _current.reset(token)
    raise safe


def judged_request(seam: Seam, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
    """As `ajudged_request`, for a thread in which no event loop runs."""
    results = _results(seam, request)
    token = _current.set(results)
    try:
        result = handler(_watching(request))
    except Exception as error:
        safe = error if _passes(error) else sync.run(results.error(error))
    else:
        return sync.run(results.judged(result))
    finally:
        _current.reset(token)
    raise safe


def _results(seam: Seam, request: ToolCallRequest) -> Results:
    return Results(seam, call_of(request.tool_call), ours=is_guarded(request.tool))


def _watching(request: ToolCallRequest) -> ToolCallRequest:
    """`request` with a copy of its tool that is watched; a guarded one watches itself."""
    tool = request.tool
    if tool is None or is_guarded(tool):
        return request
    copy = tool.model_copy()
    object.__setattr__(copy, "__class__", _watched_class(type(tool)))
    return request.override(tool=copy)


@functools.lru_cache(maxsize=256)
def _watched_class(cls: type[BaseTool]) -> type[BaseTool]:
    @functools.wraps(cls._arun)
    async def _arun(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        results = _current.get()
        if results is None or _inside.get() == id(self):
            return await cls._arun(self, *args, **kwargs)
        token = _inside.set(id(self))
        try:
            return await arun_watched(self, results, functools.partial(cls._arun, self, *args), kwargs)
        finally:
            _inside.reset(token)

    @functools.wraps(cls._run)
    def _run(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        results = _current.get()
        if results is None or _inside.get() == id(self):
            return cls._run(self, *args, **kwargs)
        token = _inside.set(id(self))
        try:
            return run_watched(self, results, functools.partial(cls._run, self, *args), kwargs)
        finally:
            _inside.reset(token)

    members = {"_arun": _arun, "_run": _run, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), members)
