"""What tools say of themselves, judged before a model reads it, and again whenever it changes.

A tool's description is text from whoever wrote the tool, a stranger's server perhaps, that stands in the model's prompt
beside the developer's own words. It is judged as a ``tool_result`` whose origin is ``description``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from guardmw.checker import Checker
from guardmw.errors import PoisonedToolError
from guardmw.policy.schema import Policy
from guardmw.types import Check, Decision, ToolCall
from guardmw_langgraph.contents import texts_in
from guardmw_langgraph.windowed import judged

logger = logging.getLogger("guardmw.tools")

REMEMBERED = 4096

_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

_GROUPS: Final = frozenset({"$defs", "input_schema", "items", "parameters", "properties"})

_VOCABULARY: Final = _GROUPS | {
    "$ref", "$schema", "additionalProperties", "allOf", "annotations", "anyOf", "arguments", "const", "default",
    "dependentRequired", "dependentSchemas", "deprecated", "description", "discriminator", "else", "enum", "examples",
    "exclusiveMaximum", "exclusiveMinimum", "format", "if", "mapping", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minimum", "multipleOf", "not", "nullable", "oneOf", "pattern", "patternProperties", "prefixItems",
    "propertyName", "readOnly", "required", "strict", "then", "title", "type", "uniqueItems", "writeOnly",
}  # fmt: skip
"""Keys of schemas that say nothing by themselves; every other one was chosen by whoever wrote the tool."""


class Descriptions:
    """Judges descriptions and remembers what was decided, per policy and text; failures are not remembered."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._decided: OrderedDict[tuple[str, bytes], Decision | None] = OrderedDict()
        self._newest: OrderedDict[str, bytes] = OrderedDict()

    async def offered(self, tools: Sequence[Any], policy: Policy, agent: str) -> list[Any]:
        """Those of `tools` that a model may be told of, in their order.

        Raises PoisonedToolError where the policy refuses to run with one whose description may not pass.
        """
        return [tool for tool in tools if await self.poisoned(tool, policy, agent) is None]

    async def poisoned(self, tool: Any, policy: Policy, agent: str) -> Decision | None:
        """The decision by which `tool` is not to be used; None when it may be.

        Raises PoisonedToolError where the policy refuses to run with it.
        """
        name, text = name_of(tool), described(tool)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if (policy.hash, digest) in self._decided:
            decision = self._decided[policy.hash, digest]
        else:
            decision = await self._decide(name, text, digest, policy, agent)
        if decision is None or policy.tools.descriptions == "flag":
            return None
        if policy.tools.descriptions == "refuse":
            raise PoisonedToolError(name, policy.id, decision.why)
        return decision

    async def _decide(self, name: str, text: str, digest: bytes, policy: Policy, agent: str) -> Decision | None:
        check = Check("tool_result", text, agent, calls=(ToolCall(name),), origin="description")
        verdict = await judged(self._checker, policy, check)
        decision = verdict.decision if verdict.offends else None
        changed = self._newest.get(name, digest) != digest
        if decision is not None:
            self._warn(name, decision, policy, changed=changed)
        if verdict.decision.verdict.error is None:
            _remember(self._decided, (policy.hash, digest), decision)
            _remember(self._newest, name, digest)
        return decision

    def _warn(self, name: str, decision: Decision, policy: Policy, *, changed: bool) -> None:
        done = {"leave_out": "is left out", "refuse": "stops the run", "flag": "stays"}[policy.tools.descriptions]
        which = "has changed and may not pass" if changed else "may not pass"
        logger.warning(
            "the tool %r %s: its description %s under the policy %r (%s)", name, done, which, policy.id, decision.why
        )


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def name_of(tool: Any) -> str:
    """The name of a tool in whatever form a model takes it."""
    if isinstance(tool, dict):
        function = tool.get("function")
        named = function if isinstance(function, dict) else tool
        return str(named.get("name") or named.get("type") or "tool")
    return str(getattr(tool, "name", None) or getattr(tool, "__name__", None) or "tool")


def described(tool: Any) -> str:
    """All that a model reads of `tool`, a line each: its name and description, then whatever its schema says."""
    schema = tool if isinstance(tool, dict) else _schema(tool)
    function = schema.get("function", schema)
    function = function if isinstance(function, dict) else schema
    rest = {
        key: value for key, value in {**schema, **function}.items() if key not in ("function", "name", "description")
    }
    head = f"{name_of(schema)}: {function.get('description') or ''}"
    return "\n".join([head.rstrip(": "), *_lines(rest)])


def _schema(tool: Any) -> dict[str, Any]:
    try:
        return convert_to_openai_tool(tool)
    except Exception:  # whatever somebody made of its schema: what is known of it is judged
        arguments = json.dumps(getattr(tool, "args", {}), default=str) if isinstance(tool, BaseTool) else str(tool)
        return {"name": name_of(tool), "description": getattr(tool, "description", ""), "arguments": arguments}


def _lines(schema: Any, name: str = "", *, named: bool = False) -> Iterator[str]:
    """The texts of a schema; those of one argument on one line, after its name. `named`: its name was said before."""
    if not isinstance(schema, dict):
        yield from (f"{name}: {text}" if name else text for text in texts_in(schema))
        return
    said = [text for key, value in schema.items() if not isinstance(value, dict) for text in _said(key, value, schema)]
    if said:
        yield f"{name}: {' '.join(said)}" if name else " ".join(said)
    elif name and name not in _VOCABULARY and not named:
        yield name
    for key, value in schema.items():
        if isinstance(value, dict):
            yield from _lines(value, "" if key in _GROUPS else str(key))
        elif isinstance(value, list):
            yield from (line for part in value if isinstance(part, dict) for line in _lines(part, name, named=True))


def _said(key: str, value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """What a plain entry of a schema says, but for the names of types and arguments, which stand there anyway."""
    if key not in _VOCABULARY:
        yield str(key)
    if key == "type" and str(value) in {*_TYPES, "function"}:
        return
    known = schema.get("properties") if key == "required" else None
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, list):
            yield from texts_in(part)
        elif isinstance(part, str) and not (isinstance(known, dict) and part in known):
            yield part
