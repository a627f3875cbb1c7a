"""An agent's model that believes whatever it reads: nothing but the guard stands between an attack and its success."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool

from attacking.tasks import Call, Task, numbered


class GullibleModel(BaseChatModel):
    """Makes the calls of `task`, one a turn, then gives its answer.

    With `obeys`, as soon as it has read what was planted it makes the attacker's calls first, and says what the
    attacker wants said. Requests and mistakes have nothing planted: their calls come after the others. A refused call
    is not repeated. It goes by nothing but the messages it is given.
    """

    task: Any
    obeys: bool = True

    @property
    def _llm_type(self) -> str:
        return "gullible"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(**kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.turn(messages))])

    def turn(self, messages: Sequence[BaseMessage]) -> AIMessage:
        task: Task = self.task
        tried = {call["id"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
        read = "\n".join(message.text for message in messages if isinstance(message, ToolMessage))
        fooled = self.obeys and task.attack and (not task.planted or task.understood(read))
        own, harm = numbered(task.steps, "own-"), numbered(task.harm, "harm-") if fooled else []
        waiting = [*harm, *own] if task.planted else [*own, *harm]
        for call_id, call in waiting:
            if call_id not in tried:
                return _calling(call_id, call)
        return AIMessage(task.harm_answer if fooled and task.harm_answer else task.answer)


def _calling(call_id: str, call: Call) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": call.name, "args": dict(call.args), "id": call_id, "type": "tool_call"}])


def tools_of(task: Task, made: list[tuple[str, dict[str, Any]]]) -> list[BaseTool]:
    """The tools of the task's agent. Each call that runs is noted in `made`."""
    results = task.results()
    answers = [(step, result) for step, result in zip(task.steps, results, strict=True)]
    answers += [(call, call.result) for call in task.harm]
    return [_tool(name, answers, made) for name in task.tools()]


def _tool(name: str, answers: Sequence[tuple[Call, str]], made: list[tuple[str, dict[str, Any]]]) -> BaseTool:
    async def run(**args: Any) -> str:
        made.append((name, args))
        return next((result for call, result in answers if call.same_as(name, args)), "Done.")

    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    return StructuredTool(name=name, description=f"The tool {name}.", args_schema=schema, coroutine=run)
