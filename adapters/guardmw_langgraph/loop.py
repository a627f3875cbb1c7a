"""The agent loop round a guarded model: what makes it possible to answer a refused call, and to ask a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from guardmw_langgraph.slots import Fields


@dataclass(frozen=True)
class Loop:
    """`tools` are those the agent has, by name; `can_ask` says whether the run can be interrupted; `messages` are those
    of the graph's state, however many of them the model is shown. `outputs` are the names by which the model gives
    structured output, where every other call can be answered (None: only calls of `tools` can)."""

    tools: Mapping[str, BaseTool | dict[str, Any]]
    can_ask: bool
    messages: Sequence[BaseMessage]
    outputs: frozenset[str] | None = None

    def answers(self, name: str) -> bool:
        """Whether the agent can be told why a call of that name isn't made."""
        return name in self.tools or (self.outputs is not None and name not in self.outputs)

    def schema(self, name: str) -> Fields | None:
        """The JSON Schema of the arguments of the tool `name`; None when it has none that can be written down."""
        tool = self.tools.get(name)
        if tool is None:
            return None
        try:
            parameters = convert_to_openai_tool(tool)["function"].get("parameters")
        except Exception:  # a schema of somebody else's making: the tool itself will check the arguments
            return None
        return parameters if isinstance(parameters, dict) else None


def named(tools: Sequence[BaseTool | dict[str, Any]]) -> dict[str, BaseTool | dict[str, Any]]:
    """`tools` by name; those that a provider runs itself have none and are left out."""
    return {name: tool for tool in tools if (name := _name(tool))}


def _name(tool: BaseTool | dict[str, Any]) -> str | None:
    if isinstance(tool, BaseTool):
        return tool.name
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return name if isinstance(name, str) and tool.get("type", "function") == "function" else None
