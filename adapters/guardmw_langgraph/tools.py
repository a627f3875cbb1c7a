"""Tools that run only calls the guard lets pass, and return only results it lets pass."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from pydantic_core import to_jsonable_python

from guardmw.guard.base import Guard
from guardmw.policy.outcome import RuleOutcome
from guardmw.policy.schema import Policy
from guardmw.traces.record import Recorder
from guardmw.types import ToolCall
from guardmw_langgraph import sync
from guardmw_langgraph.admit import late_refusal
from guardmw_langgraph.batch import Batches, Settled
from guardmw_langgraph.internals import running_task
from guardmw_langgraph.rejected import refused_tool
from guardmw_langgraph.results import Results
from guardmw_langgraph.seam import PolicySource, Seam
from guardmw_langgraph.watched import argument_names, arun_watched, run_watched, shaped
from guardmw_langgraph.watched import is_guarded as is_guarded

NO_MESSAGES = RuleOutcome(
    "deny", "no-messages", "the order of calls can't be known: the graph's state keeps no `messages`"
)
NO_CALL = RuleOutcome(
    "deny", "no-call", "the order of calls can't be known: the newest message of a graph's state holds no such call",
    "Call the tool with the whole tool call, from a message that is in the state.",
)  # fmt: skip
"""What a call is refused by that can't be found among others, where the policy minds their order."""

_running: ContextVar[Results | None] = ContextVar("guardmw_running", default=None)
"""What judges the results of the guarded tool that is running, whose call was decided about."""

_inside: ContextVar[int | None] = ContextVar("guardmw_tool", default=None)
"""The tool whose call is being guarded: the async way of a tool often ends in its sync one."""


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
    In a graph that keeps its conversation under ``messages`` and runs tools in a ToolNode, the history of calls is read
    from there, and people are asked by an interrupt, once for all calls of a message. Guard all tools of a graph in
    one call of this function, so that they are decided together.

    The originals are left as they are. Raises PolicyError and GuardConfigError; a call may raise BlockedError, where
    the policy ends the run, and GraphInterrupt, while a person is asked.
    """
    seam = Seam(policy, guard, agent, recorder)
    originals = [tool if isinstance(tool, BaseTool) else as_tool(tool) for tool in tools]
    batches = Batches(seam, originals)
    return [_guarded(tool, _Guarding(seam, batches)) for tool in originals]


@dataclass(frozen=True)
class _Guarding:
    seam: Seam
    batches: Batches

    async def settled(self, tool: BaseTool, tool_input: Any, call_id: str | None) -> Settled | ToolMessage:
        """What becomes of the call when it is made with `tool_input`, or what stands in the place of its result: the
        call with that id in the message of the graph that is running, else one for itself."""
        refused = await refused_tool(self.seam, tool, call_id or "")
        if refused is not None:
            return refused
        task, found = running_task(), None
        if task is not None and call_id:
            found = await self.batches.outcome(task, call_id, functools.partial(_given, tool, tool_input))
        if found is None:
            rule = NO_MESSAGES if task is not None and task.messages is None else NO_CALL
            found = await self._alone(_handed(tool, tool_input, call_id), rule)
        return found if found.answer is None else found.answer

    async def _alone(self, call: ToolCall, rule: RuleOutcome) -> Settled:
        """What becomes of a `call` without a history. Where the policy minds the order of calls, `rule` refuses it."""
        policy = await self.seam.checker.policy_for(self.seam.agent)
        past = self.seam.history.past([], policy)
        judged = await self.seam.judge_call(call, past, policy, rule=rule if _minds_order(policy) else None)
        mark = judged.mark(policy)
        if judged.kept is None or judged.verdict != "pass":
            return Settled(call, call, mark, late_refusal(judged, policy, judged.decision.why))
        return Settled(call, judged.kept, mark)

    async def admitted(
        self, tool: BaseTool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Results, dict[str, Any], str]:
        """What judges the results of the tool, and the arguments it may run with, or what to say instead."""
        running = _running.get()
        if running is not None:
            return running, kwargs, ""
        given = {**kwargs, "input": args[0] if len(args) == 1 else list(args)} if args else kwargs
        settled = await self._alone(_handed(tool, given, None), NO_CALL)
        refused = "" if settled.answer is None else str(settled.answer.content)
        return self.results(settled), _input(tool, settled, kwargs), refused

    def results(self, settled: Settled) -> Results:
        """What judges the results of the call as it is made."""
        risk = 0.0 if settled.mark.approval else settled.mark.risk
        return Results(self.seam, settled.call, risk=risk)


def _minds_order(policy: Policy) -> bool:
    return bool(policy.tools.sequences) or policy.tools.risk_budget is not None


def _guarded(tool: BaseTool, guarding: _Guarding) -> BaseTool:
    """A copy of `tool` whose class puts the guard round what the tool does, so that nothing else about it changes."""
    guarded = tool.model_copy()
    object.__setattr__(guarded, "__class__", _guarded_class(type(tool), guarding))
    return guarded


def _guarded_class(cls: type[BaseTool], guarding: _Guarding) -> type[BaseTool]:
    members = {
        "arun": _settled_arun(cls, guarding), "run": _settled_run(cls, guarding),
        "_arun": _guarded_arun(cls, guarding), "_run": _guarded_run(cls, guarding),
        "_guardmw_guarded": True, "__module__": __name__, "__doc__": cls.__doc__,
    }  # fmt: skip
    return type(f"Guarded{cls.__name__}", (cls,), members)


def _settled_arun(cls: type[BaseTool], guarding: _Guarding) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(cls.arun)
    async def arun(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        settled = await guarding.settled(self, tool_input, kwargs.get("tool_call_id"))
        if isinstance(settled, ToolMessage):
            return _unmade(settled, kwargs)
        results = guarding.results(settled)
        token = _running.set(results)
        try:
            return _noted(results, await cls.arun(self, _input(self, settled, tool_input), *args, **kwargs))
        finally:
            _running.reset(token)

    return arun


def _settled_run(cls: type[BaseTool], guarding: _Guarding) -> Callable[..., Any]:
    @functools.wraps(cls.run)
    def run(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        settled = sync.run(guarding.settled(self, tool_input, kwargs.get("tool_call_id")))
        if isinstance(settled, ToolMessage):
            return _unmade(settled, kwargs)
        results = guarding.results(settled)
        token = _running.set(results)
        try:
            return _noted(results, cls.run(self, _input(self, settled, tool_input), *args, **kwargs))
        finally:
            _running.reset(token)

    return run


def _given(tool: BaseTool, tool_input: Any, asked: ToolCall) -> ToolCall:
    """The call `asked` as `tool` is given it by `tool_input`, without what was injected."""
    written = json.loads(asked.arguments)
    given = tool_input if isinstance(tool_input, dict) else {"input": tool_input}
    if given != written:
        shown, injected = argument_names(tool)
        given = {name: value for name, value in given.items() if name in shown or name in written}
        given |= {name: value for name, value in written.items() if name in injected}
    return _call(tool, given, asked.id)


def _handed(tool: BaseTool, tool_input: Any, call_id: str | None) -> ToolCall:
    """The call of `tool` by somebody who gives it `tool_input`, without what is injected."""
    _, injected = argument_names(tool)
    given = tool_input if isinstance(tool_input, dict) else {"input": tool_input}
    return _call(tool, {name: value for name, value in given.items() if name not in injected}, call_id)


def _call(tool: BaseTool, given: dict[str, Any], call_id: str | None) -> ToolCall:
    return ToolCall(tool.name, json.dumps(given, ensure_ascii=False, default=_plain), call_id)


def _plain(value: Any) -> Any:
    """`value`, an object that is no JSON, as a model would have written it; what none can write as its text."""
    try:
        return to_jsonable_python(value)
    except ValueError:
        return str(value)


def _input(tool: BaseTool, settled: Settled, tool_input: Any) -> Any:
    """`tool_input` with the arguments the call is made with, and whatever was injected: no model can write that."""
    if settled.call == settled.asked:
        return tool_input
    before, made = json.loads(settled.asked.arguments), json.loads(settled.call.arguments)
    if not isinstance(tool_input, dict):
        return made.get("input", made)
    _, injected = argument_names(tool)
    overwritten = {name for name in before if name in injected and tool_input.get(name) != before[name]}
    return {**made, **{name: value for name, value in tool_input.items() if name not in before or name in overwritten}}


def _guarded_arun(cls: type[BaseTool], guarding: _Guarding) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(cls._arun)
    async def _arun(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        results, arguments, refused = await guarding.admitted(self, args, kwargs)
        if refused:
            return shaped(self, refused)
        token = _inside.set(id(self))
        try:
            return await arun_watched(self, results, functools.partial(cls._arun, self, *args), arguments)
        finally:
            _inside.reset(token)

    return _arun


def _guarded_run(cls: type[BaseTool], guarding: _Guarding) -> Callable[..., Any]:
    @functools.wraps(cls._run)
    def _run(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        if _inside.get() == id(self):
            return cls._run(self, *args, **kwargs)
        results, arguments, refused = sync.run(guarding.admitted(self, args, kwargs))
        if refused:
            return shaped(self, refused)
        return run_watched(self, results, functools.partial(cls._run, self, *args), arguments)

    return _run


def _unmade(answer: ToolMessage, kwargs: Any) -> Any:
    """What a call gives back that isn't made: `answer`, or its text for a caller that gave the call no id."""
    return answer if kwargs.get("tool_call_id") else answer.content


def _noted(results: Results, result: Any) -> Any:
    """`result` with what the history needs to know of it, where LangChain made a message of it after it was judged."""
    return results.marked(result) if isinstance(result, ToolMessage) else result
