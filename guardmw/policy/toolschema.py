"""The shape of a policy's rules over tool calls, and what every part of a policy is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from guardmw.policy.argschema import ArgumentSchema, SchemaProblem

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Regex = Annotated[str, AfterValidator(_regex)]


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        ArgumentSchema(schema)
    except SchemaProblem as error:
        context = {"problem": error.problem, "mend": error.mend, "path": error.path}
        raise PydanticCustomError("json_schema", "{problem}", context) from error
    return schema


JsonSchema = Annotated[
    dict[str, Any],
    AfterValidator(_json_schema),
    WithJsonSchema({"type": "object", "description": "A JSON Schema, draft 2020-12."}),
]

OnBlock = Literal["tell", "terminate"]
"""What a refused call does to the run: `tell` the agent why, so that it can go on, or `terminate` the run."""

SEQUENCE_FORMS: tuple[frozenset[str], ...] = (
    frozenset({"after", "never"}),
    frozenset({"before", "require"}),
    frozenset({"tool", "at_most"}),
    frozenset({"taint", "never_into"}),
)
"""The pairs of keys that make a sequence rule."""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class Argument(Model):
    """What one argument of a tool call must look like; every condition given must hold.

    `schema` (here `fits`, as pydantic takes the name for itself) binds the argument as a whole, the others every plain
    value in it."""

    pattern: Regex | None = Field(None, description="Searched in the argument's text.")
    one_of: tuple[Any, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    fits: JsonSchema | None = Field(None, alias="schema")


class ToolRule(Model):
    """For calls of `tool` (exact name or glob): `action`, or `otherwise` when an argument breaks its condition.

    `schema` (here `fits`) binds all arguments as one object.
    `on_block` says what a call that this rule denies does to the run (None: what `tools.on_block` says)."""

    tool: str = Field(min_length=1)
    action: Literal["allow", "check", "ask", "deny"] = "check"
    args: dict[str, Argument] = {}
    fits: JsonSchema | None = Field(None, alias="schema")
    otherwise: Literal["ask", "deny"] = "deny"
    on_block: OnBlock | None = None

    @property
    def conditional(self) -> bool:
        """Whether the rule minds the arguments."""
        return bool(self.args) or self.fits is not None


class SequenceRule(Model):
    """A rule over the order of calls: `never` B `after` A; before B `require` A; of one `tool` `at_most` n; what
    `taint` returned `never_into` the arguments of B.

    Names may be globs. A `taint` rule with ``match: any`` refuses every call of B once A's data has been read, with
    ``match: values`` only one whose arguments repeat something that A returned."""

    name: Identifier
    after: str | None = None
    never: str | None = None
    before: str | None = None
    require: str | None = None
    tool: str | None = None
    at_most: int | None = Field(None, ge=0)
    taint: str | None = None
    never_into: str | None = None
    match: Literal["any", "values"] = "any"
    on_block: OnBlock | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        keys = frozenset[str]().union(*SEQUENCE_FORMS)
        if frozenset(key for key in keys if getattr(self, key) is not None) not in SEQUENCE_FORMS:
            raise ValueError(
                "a sequence rule is `after` with `never`, `before` with `require`, `tool` with `at_most`, "
                "or `taint` with `never_into`"
            )
        if self.match != "any" and self.taint is None:
            raise ValueError("`match` belongs to a sequence rule with `taint` and `never_into`")
        return self


class Results(Model):
    """What the agent reads of results that it may not read as they are.

    `blocked` is what takes a blocked result's place: a `refusal` with the reason, a `summary` that also says what kind
    of content it was and how much, or the `clean_parts` that may pass, judged again after the cut. Of text beyond
    `max_chars` (None: no limit) the rest is left out (`cut`), or all of it is withheld (`block`). `media` are images,
    audio, files and binary data, which nobody judges."""

    blocked: Literal["summary", "clean_parts", "refusal"] = "summary"
    max_chars: int | None = Field(200_000, ge=1)
    longer: Literal["cut", "block"] = "cut"
    media: Literal["pass", "drop", "block"] = "pass"


class Tools(Model):
    """Rules over tool calls. `on_block` says what a refused call does to the run; `risk_budget` is the sum of
    P(unsafe) that the allowed calls of one run may reach before a person is asked (None: no limit). `descriptions`
    says what is done about a tool whose description may not pass: the model isn't offered it (`leave_out`), the run is
    refused (`refuse`), or it is recorded only (`flag`)."""

    default: Literal["allow", "check", "ask", "deny"] = "check"
    rules: tuple[ToolRule, ...] = ()
    sequences: tuple[SequenceRule, ...] = ()
    risk_budget: float | None = Field(None, gt=0)
    on_block: OnBlock = "tell"
    results: Results = Results()
    descriptions: Literal["leave_out", "refuse", "flag"] = "leave_out"
