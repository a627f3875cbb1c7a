"""The shape of a policy: frozen pydantic models that refuse unknown keys.

Loading, inheritance and error places are `load`'s; matching agents is `match`'s.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from guardmw.policy.toolschema import Argument as Argument
from guardmw.policy.toolschema import Identifier, Model, Regex
from guardmw.policy.toolschema import JsonSchema as JsonSchema
from guardmw.policy.toolschema import OnBlock as OnBlock
from guardmw.policy.toolschema import Results as Results
from guardmw.policy.toolschema import SequenceRule as SequenceRule
from guardmw.policy.toolschema import ToolRule as ToolRule
from guardmw.policy.toolschema import Tools as Tools
from guardmw.types import SURFACES, Action, Mode, PolicyRef, Surface

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Style = Literal["label", "mask", "hash"]
"""How a redaction looks: `label` ``[EMAIL]``, `mask` ``j***@***.com`` (kind still visible), `hash` ``[EMAIL:1f3a9c]``
(the same value gives the same hash within one process)."""

PiiEntity = Literal[
    "email", "phone", "credit_card", "iban", "us_ssn", "national_id", "ip_address", "mac_address", "crypto_wallet"
]
SecretEntity = Literal[
    "private_key", "cloud_key", "api_key", "access_token", "jwt", "password", "connection_string", "high_entropy"
]
OnGuardError = Literal["block", "allow", "fallback"]
"""When the guard fails: `block`, `allow`, or judge by the fallback guard and block when that fails too."""

STRICTNESS_LOGITS = 2.0
"""How far strictness 0 or 1 moves a threshold, in logits of the calibrated probability."""


class Precedent(Model):
    """A case beside the code: a text, its label, and why."""

    text: str = Field(min_length=1)
    label: Literal["safe", "unsafe"]
    why: str = ""


class Category(Model):
    """One thing the policy forbids.

    Above `block_above` the category's `action` is taken; between `ask_above` and `block_above` lies the uncertain
    band, where a person is asked (None: no band). Both are probabilities at strictness 0.5.
    """

    id: Identifier
    title: str = Field(min_length=1)
    unsafe_when: str = Field(min_length=1)
    safe_when: str = ""
    precedents: tuple[Precedent, ...] = ()
    surfaces: tuple[Surface, ...] = SURFACES
    action: Action = "block"
    ask_above: Probability | None = None
    block_above: Probability = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ask_above is not None and self.ask_above >= self.block_above:
            raise ValueError(
                f"ask_above ({self.ask_above:g}) must be below block_above ({self.block_above:g}): "
                "the uncertain band lies between them"
            )
        return self


class DetectorModel(Model):
    surfaces: tuple[Surface, ...] = SURFACES
    style: Style = "label"
    allow: tuple[str, ...] = Field((), description="Values that are never reported, compared without case.")


class PiiDetector(DetectorModel):
    """Personal data. `phone_region` is the ISO 3166 code for numbers written without a country code."""

    entities: tuple[PiiEntity, ...] = ("email", "phone", "credit_card", "iban", "us_ssn", "national_id")
    action: Action = "redact"
    phone_region: str = Field("US", pattern=r"^[A-Z]{2}$")


class SecretsDetector(DetectorModel):
    """Credentials: keys, tokens, passwords."""

    entities: tuple[SecretEntity, ...] = (
        "private_key", "cloud_key", "api_key", "access_token", "jwt", "password", "connection_string"
    )  # fmt: skip
    action: Action = "block"


class PatternDetector(DetectorModel):
    """A pattern of your own. No match may be longer than `max_chars`: that many characters of a stream wait for it."""

    id: Identifier
    pattern: Regex
    action: Action = "redact"
    max_chars: int = Field(64, ge=1, le=1024)


class Detectors(Model):
    pii: PiiDetector | None = None
    secrets: SecretsDetector | None = None
    patterns: tuple[PatternDetector, ...] = ()


class Streaming(Model):
    """How streamed text is cut into checks. Chunks are counted in tokens of four characters."""

    mode: Literal["hold", "pass"] = "hold"
    first_chunk: int = Field(8, ge=1, le=4096)
    chunk: int = Field(48, ge=1, le=4096)
    max_hold_ms: int = Field(400, ge=1, le=60_000)


class GuardErrors(Model):
    """What a guard's failure means, per surface."""

    input: OnGuardError = "block"
    output: OnGuardError = "block"
    reasoning: OnGuardError = "block"
    tool_call: OnGuardError = "block"
    tool_result: OnGuardError = "block"

    def on(self, surface: Surface) -> OnGuardError:
        answer: OnGuardError = getattr(self, surface)
        return answer


class Limits(Model):
    """`deadline_ms` bounds one check, waiting included; `checks_per_s` one agent's guard calls (None: no limit);
    `refusals` how often a run may be refused the same tool on the same ground: the last time ends the run."""

    deadline_ms: int = Field(2000, ge=1, le=600_000)
    checks_per_s: float | None = Field(None, gt=0)
    refusals: int = Field(3, ge=1, le=1000)


class Messages(Model):
    """What users read instead of the text they don't see."""

    blocked: str = "I can't help with that."
    unavailable: str = "This could not be checked just now, so it is not shown."


class Policy(Model):
    """One agent's policy, resolved: nothing left to inherit."""

    version: Literal[1] = 1
    id: Identifier
    description: str = ""
    extends: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    mode: Mode = "enforce"
    strictness: Probability = 0.5
    categories: tuple[Category, ...] = ()
    detectors: Detectors = Detectors()
    tools: Tools = Tools()
    streaming: Streaming = Streaming()
    on_guard_error: GuardErrors = GuardErrors()
    limits: Limits = Limits()
    messages: Messages = Messages()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for what, names in (
            ("category", [category.id for category in self.categories]),
            ("pattern", [pattern.id for pattern in self.detectors.patterns]),
            ("sequence", [sequence.name for sequence in self.tools.sequences]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"the {what} {name!r} is given twice")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with `update`, unvalidated as pydantic's own, whose hash is that of what it now says."""
        copy = super().model_copy(update=update, deep=deep)
        for name in ("hash", "_by_id", "_by_surface"):
            copy.__dict__.pop(name, None)
        return copy

    @cached_property
    def hash(self) -> str:
        """SHA-256 (16 hex digits) of everything that bears on decisions; equal content gives equal hashes."""
        content = self.model_dump(mode="json", exclude={"description", "extends", "agents"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def ref(self) -> PolicyRef:
        return PolicyRef(self.id, self.hash)

    def categories_on(self, surface: Surface) -> tuple[Category, ...]:
        """The categories that are judged on `surface`, in the policy's order."""
        return self._by_surface[surface]

    def category(self, id: str) -> Category:
        """The category called `id`. Raises KeyError when there is none."""
        return self._by_id[id]

    @cached_property
    def _by_id(self) -> dict[str, Category]:
        return {category.id: category for category in self.categories}

    @cached_property
    def _by_surface(self) -> dict[Surface, tuple[Category, ...]]:
        return {
            surface: tuple(category for category in self.categories if surface in category.surfaces)
            for surface in SURFACES
        }

    def thresholds(self, category: Category) -> tuple[float, float]:
        """(ask, act) for `category` at this policy's strictness; equal when there is no uncertain band."""
        act = shift(category.block_above, self.strictness)
        return (act if category.ask_above is None else shift(category.ask_above, self.strictness)), act


def shift(threshold: float, strictness: float) -> float:
    """`threshold` moved along the calibration curve: up to STRICTNESS_LOGITS down when strict, up when lenient."""
    if threshold in (0.0, 1.0):
        return threshold
    logit = math.log(threshold / (1 - threshold)) - STRICTNESS_LOGITS * (2 * strictness - 1)
    return 1 / (1 + math.exp(-logit))
