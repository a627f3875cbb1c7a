"""JSON Schemas (draft 2020-12) that arguments must fit. Validation is jsonschema-rs's; what is strict here is ours.

A policy's schema may hold no keyword that JSON Schema doesn't know, since a misspelt one would check nothing; formats
are checked; patterns take linear time; references stay within the schema, nothing is ever fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator, ValidationError

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_STRICT: Final = {
    "$schema": DRAFT,
    "$id": "urn:guardmw:strict-schema",
    "$dynamicAnchor": "meta",
    "$ref": DRAFT,
    "properties": {"$schema": {"const": DRAFT}},
    "unevaluatedProperties": False,
}
"""The schema of schemas without unknown keywords, at any depth (by the dynamic anchor)."""

_TYPED: Final[dict[str, tuple[str, ...]]] = {
    "number": ("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf"),
    "string": ("pattern", "format", "maxLength", "minLength"),
    "array": ("items", "prefixItems", "contains", "maxItems", "minItems", "uniqueItems"),
    "object": ("properties", "required", "additionalProperties", "propertyNames", "maxProperties", "minProperties"),
}
"""Keywords that bind values of one type only; every other value passes them."""

_OTHERS: Final = ("type", "enum", "const", "anyOf", "allOf", "oneOf", "not", "$ref", "$defs", "if", "then", "else")

_MENDS: Final = (
    ("Retrieval is disabled", "Write it out: references are followed within the schema only (`#/$defs/...`)."),
    ('is not a "regex"', "Lookaround and back-references are unknown here: put those into `pattern`, beside `schema`."),
    ("Unknown format", "Use a format of JSON Schema, or a `pattern`."),
)

MAX_SHOWN_CHARS: Final = 600
"""Of a longer schema an agent is shown the part that its call breaks."""


class SchemaProblem(ValueError):
    """What is wrong with a policy's schema, and the `path` within it."""

    def __init__(self, problem: str, mend: str, path: tuple[str | int, ...]) -> None:
        super().__init__(problem)
        self.problem, self.mend, self.path = problem, mend, path


class ArgumentSchema:
    """A schema of a policy, compiled. Safe to share between threads. Raises SchemaProblem for what is none."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._validator = _compiled(schema)

    def broken_at(self, value: Any) -> tuple[str | int, ...] | None:
        """The path within the schema of what `value` breaks first, () when it can't be told, None when it fits.

        It quotes nothing of `value`. Never raises: what can't be written as JSON doesn't fit.
        """
        try:
            _as_json(value).encode()  # half characters pass the validator unseen within objects
            error = next(iter(self._validator.iter_errors(value)), None)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return ()
        return None if error is None else tuple(error.schema_path)

    def shown(self, broken_at: tuple[str | int, ...]) -> str:
        """The schema as JSON, or of a long one the part at `broken_at`."""
        part: Any = self._schema
        text = _as_json(part)
        for step in broken_at:
            if len(text) <= MAX_SHOWN_CHARS:
                break
            try:
                part = part[step]
            except (KeyError, IndexError, TypeError):
                break
            text = _as_json(part if isinstance(part, dict | list | tuple) else {step: part})
        return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


def tool_mismatch(args: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """The first thing about `args` that a tool's own `schema` doesn't allow, or None.

    Arguments that the schema doesn't name are no arguments, unless it says otherwise. A schema that can't be used says
    nothing: the tool checks its arguments itself before it runs.
    """
    import jsonschema_rs

    closed = {"additionalProperties": False, **schema} if schema.get("properties") else schema
    try:
        linear = jsonschema_rs.RegexOptions()
        validator = jsonschema_rs.validator_for(_as_json(closed), offline=True, pattern_options=linear)
    except ValueError:
        return None
    try:
        error = next(iter(validator.iter_errors(dict(args))), None)
    except (ValueError, TypeError, OverflowError, RecursionError) as problem:
        return f"the arguments are no JSON ({problem})"
    if error is None:
        return None
    where = ".".join(map(str, error.instance_path))
    return f"the argument {where!r}: {error.message}" if where else error.message


def unguarded_types(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(path, keyword, type) of keywords that other types pass by, for want of a `type`; of properties too."""
    if not {"type", "enum", "const", "$ref"} & schema.keys():
        for kind, keywords in _TYPED.items():
            yield from (((), keyword, kind) for keyword in keywords[:4] if keyword in schema)
    for name, below in _properties(schema).items():
        if isinstance(below, dict):
            yield from ((("properties", name, *path), keyword, kind) for path, keyword, kind in unguarded_types(below))


def optional_properties(schema: Mapping[str, Any]) -> list[str]:
    """The properties that `schema` says something about, and that may be left out."""
    return [name for name in _properties(schema) if name not in schema.get("required", ())]


def patterns(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The regular expressions in `schema`, with their paths."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield (*path, key), value
            yield from patterns(value, (*path, str(key)))
    elif isinstance(schema, list | tuple):
        for place, value in enumerate(schema):
            yield from patterns(value, (*path, str(place)))


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _compiled(schema: Mapping[str, Any]) -> Draft202012Validator:
    import jsonschema_rs

    try:
        text = _as_json(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaProblem(f"not a JSON Schema: {error}", "Write plain JSON values.", ()) from error
    strict = jsonschema_rs.Draft202012Validator(_as_json(_STRICT), offline=True)
    errors = list(strict.iter_errors(json.loads(text)))
    if errors:
        raise _problem(max(errors, key=lambda error: len(error.instance_path)))
    try:
        return jsonschema_rs.Draft202012Validator(
            text, validate_formats=True, ignore_unknown_formats=False, offline=True,
            pattern_options=jsonschema_rs.RegexOptions(),
        )  # fmt: skip
    except jsonschema_rs.ValidationError as error:
        raise _problem(error) from error


def _problem(error: ValidationError) -> SchemaProblem:
    path = tuple(error.instance_path)
    unknown = getattr(error.kind, "unexpected", None)
    if unknown:
        name = next((one for one in unknown if one not in _KEYWORDS), unknown[0])
        close = get_close_matches(name, sorted(_KEYWORDS), n=1, cutoff=0.6)
        mend = f"Did you mean {close[0]!r}?" if close else "Remove it: nothing would be checked by it."
        return SchemaProblem(f"JSON Schema knows no keyword {name!r}", mend, (*path, name))
    if path and path[-1] == "type":
        mend = "Write one of string, number, integer, boolean, array, object, null, or a list of them."
        return SchemaProblem("JSON Schema knows no such type", mend, path)
    mend = next((mend for part, mend in _MENDS if part in error.message), "Mend it as draft 2020-12 has it.")
    return SchemaProblem(f"not a JSON Schema: {error.message}", mend, path)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_KEYWORDS: Final = frozenset(_OTHERS).union(*_TYPED.values())
