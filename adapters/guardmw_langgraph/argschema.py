"""Whether arguments fit a tool's JSON Schema, as far as a form would check: keys, types, choices.

What is deeper (nested models, patterns, validators of the tool's own) the tool itself checks before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
    "null": type(None),
}  # fmt: skip


def mismatch(args: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """The first thing about `args` that `schema` doesn't allow, or None."""
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    missing = [name for name in schema.get("required", ()) if name not in args]
    if missing:
        return f"the argument {missing[0]!r} is missing"
    unknown = [name for name in args if name not in properties]
    if unknown and properties and not schema.get("additionalProperties"):
        return f"there is no argument {unknown[0]!r} (there are: {', '.join(properties)})"
    wrong = (f"the argument {name!r} {why}" for name, one in args.items() if (why := _wrong(one, properties.get(name))))
    return next(wrong, None)


def _wrong(value: Any, schema: Any) -> str | None:
    if not isinstance(schema, dict):
        return None
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        return None if any(_wrong(value, option) is None for option in options) else "is of another type"
    if "enum" in schema and value not in schema["enum"]:
        return f"is none of {schema['enum']}"
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds] if isinstance(kinds, str) else []
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"is no {' or '.join(kinds)}"
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    if isinstance(value, float) and kind == "integer":
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, object))
