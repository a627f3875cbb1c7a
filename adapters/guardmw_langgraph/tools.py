"""Tools that run only calls the guard lets pass, and return only results it lets pass."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool

from guardmw.guard.base import Guard
from guardmw.traces.record import Recorder
from guardmw.types import ToolCall
from guardmw_langgraph import sync
from guardmw_langgraph.results import judged_result, refused_call
from guardmw_langgraph.seam import PolicySource, Seam

_inside: ContextVar[int | None] = ContextVar("guardmw_tool", default=None)
"""The tool whose call is being guarded: the async way of a tool often ends in its sync one."""

_NOT_ARGUMENTS = frozenset({"config", "run_manager", "runtime"})


def guard_tools(
    tools: Sequence[BaseTool | Any],
    policy: PolicySource,
    *,
    guard: Guard | str = "embedded",
    agent: str | None = None,
    recorder: Recorder | None = None,
) -> list[BaseTool]:
    """`tools` (or functions to make tools of), each behind `guard`; names, schemas and injected arguments stay.

    A call is judged before the tool runs (surface ``tool_call``), its result before anyone sees it (``tool_result``).
    What is withheld is replaced by a text that tells the agent why; a redacted call runs with redacted arguments.
    The originals are left as they are. Raises PolicyError and GuardConfigError.
    """
    seam = Seam(policy, guard, agent, recorder)
    return [_guarded(tool if isinstance(tool, BaseTool) else as_tool(tool), seam) for tool in tools]


def _guarded(tool: BaseTool, seam: Seam) -> BaseTool:
    """A copy of `tool` whose class puts the guard round what the tool does, so that nothing else about it changes."""
    guarded = tool.model_copy()
    object.__setattr__(guarded, "__class__", _guarded_class(type(tool), seam))
    return guarded


def _guarded_class(cls: type[BaseTool], seam: Seam) -> type[BaseTool]:
    @functools.wraps(cls._arun)
    async def _arun(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        arguments, refused = await _admitted(seam, self, args, kwargs)
        if refused:
            return _shaped(self, refused)
        token = _inside.set(id(self))
        try:
            result = await cls._arun(self, *args, **arguments)
        finally:
            _inside.reset(token)
        return await _passed(seam, self, _call(self, args, arguments), result)

    @functools.wraps(cls._run)
    def _run(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        if _inside.get() == id(self):
            return cls._run(self, *args, **kwargs)
        arguments, refused = sync.run(_admitted(seam, self, args, kwargs))
        if refused:
            return _shaped(self, refused)
        result = cls._run(self, *args, **arguments)
        return sync.run(_passed(seam, self, _call(self, args, arguments), result))

    members = {"_arun": _arun, "_run": _run, "__module__": __name__, "__doc__": cls.__doc__}
    return type(f"Guarded{cls.__name__}", (cls,), members)


async def _admitted(
    seam: Seam, tool: BaseTool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The arguments the tool may run with, or what to say instead of running it."""
    call = _call(tool, args, kwargs)
    kept, refused = await refused_call(seam, call)
    if kept is None or kept == call:
        return kwargs, refused
    return {**kwargs, **json.loads(kept.arguments)}, ""


async def _passed(seam: Seam, tool: BaseTool, call: ToolCall, result: Any) -> Any:
    if tool.response_format == "content_and_artifact" and isinstance(result, tuple) and len(result) == 2:
        content = await judged_result(seam, call, result[0])
        return content, result[1] if content is result[0] else None
    return await judged_result(seam, call, result)


def _call(tool: BaseTool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolCall:
    """The call as a guard sees it: what the model wrote, without what LangGraph injects."""
    shown = (
        set(tool.tool_call_schema.model_fields) if hasattr(tool.tool_call_schema, "model_fields") else set(tool.args)
    )
    arguments = {name: value for name, value in kwargs.items() if name in shown and name not in _NOT_ARGUMENTS}
    if args:
        arguments["input"] = args[0] if len(args) == 1 else list(args)
    return ToolCall(tool.name, json.dumps(arguments, ensure_ascii=False, default=str))


def _shaped(tool: BaseTool, text: str) -> Any:
    return (text, None) if tool.response_format == "content_and_artifact" else text
