"""The guard LLM behind vLLM's OpenAI-compatible server: verdict first, reasons when wanted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from guardmw.errors import GuardConfigError
from guardmw.guard.calibration import Calibration
from guardmw.guard.endpoints import endpoints
from guardmw.guard.examination import Examination, Explain, Memory
from guardmw.guard.families import Family, family_named
from guardmw.guard.families.taxonomy import LabelMap
from guardmw.guard.resilience import ends_at_s
from guardmw.guard.wire import Deadline, Wire
from guardmw.policy.schema import Policy
from guardmw.types import Check, Verdict

if TYPE_CHECKING:
    import httpx

__all__ = ["Explain", "VllmGuard"]


class VllmGuard:
    """Judges checks by a guard model on one or several vLLM servers (replicas of the same model).

    `urls` are their base URLs; a stream stays with one replica, whose prefix cache then holds all but its newest text.
    `model` is the served model's name (None: the first one each server lists). `family` says how the model is spoken
    to, see `guardmw.guard.families`; `mapping` and `labels` are for families with labels of their own. `api_key` is
    sent as bearer token. `tenant` keeps this guard's cached prefixes apart from those of other tenants. `explain` runs
    the model's reasoning ``never``, when the probability is ``uncertain`` (within half a logit of a category's band),
    or ``always``; its verdict then counts, and its reasons become the findings' rationale. `calibration` turns the
    model's logit into a probability and is part of `version`. `priority` is the requests' (lower is earlier; the
    server must run with ``--scheduling-policy priority``). `transport` replaces the network, for tests.

    Every check gives one finding per category on its surface. The likeliest category carries P(unsafe), the others
    their share of it; while P(unsafe) is below every threshold, the category isn't asked for and all carry it, as an
    upper bound. What is longer than the model's context is judged in overlapping windows, and the rationale says so.

    Building it loads httpx and, for https, the machine's certificates; checks block nothing.

    Raises GuardConfigError when httpx is missing or an argument can't be used. Safe to use from several event loops.
    """

    name = "vllm"

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        model: str | None = None,
        family: str | Family = "gspr",
        api_key: str | None = None,
        tenant: str | None = None,
        explain: Explain = "never",
        calibration: Calibration | None = None,
        priority: int | None = None,
        mapping: LabelMap | None = None,
        labels: Sequence[str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if explain not in EXPLAIN:
            raise GuardConfigError(f"explain must be one of {', '.join(EXPLAIN)}, not {explain!r}")
        self.family = family_named(family, mapping=mapping, labels=labels) if isinstance(family, str) else family
        self.model, self.explain = model, explain
        self.calibration = calibration or Calibration()
        keyed = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._wire = Wire(endpoints(urls), keyed, transport)
        self._memory = Memory(_own_fields(tenant, priority, classifies=self.family.name == "classifier"))
        self.version = self._version()

    async def check(self, check: Check, policy: Policy) -> Verdict:
        """Judge `check` within the policy's deadline, or what waiting for its turn left of it.

        Raises GuardTimeoutError, GuardConnectionError (server down or failing), GuardOverloadedError (429, 503),
        GuardAnswerError (no verdict in the answer), GuardConfigError (unknown model, refused key, policy longer than
        the model's context) and GuardContextError; see `guardmw.errors`.
        """
        return await self._examine(check, policy, self.explain)

    async def explained(self, check: Check, policy: Policy) -> Verdict:
        """Judge `check` with reasons, whatever `explain` says. Raises what `check` raises."""
        return await self._examine(check, policy, "always")

    async def aclose(self) -> None:
        """Close the connections of this event loop. May be called twice; the guard can't be used afterwards."""
        await self._wire.aclose()

    async def disconnect(self) -> None:
        """Close the connections of this event loop, before it ends; the guard can go on being used."""
        await self._wire.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"VllmGuard({self._wire}, model={self.model!r}, family={self.family.name!r}, explain={self.explain!r})"

    async def _examine(self, check: Check, policy: Policy, explain: Explain) -> Verdict:
        if not policy.categories_on(check.surface):
            return Verdict(guard=self.name, guard_version=self.version)
        started = time.perf_counter()
        deadline = Deadline(ends_at_s(check, policy), policy.limits.deadline_ms / 1000)
        examination = Examination(
            check, policy, self.family, self._wire, self._memory,
            calibration=self.calibration, model=self.model, deadline=deadline, explain=explain, guard=self.name,
        )  # fmt: skip
        findings = await examination.findings()
        return Verdict(findings, self.name, self.version, examination.tokens, duration_s=time.perf_counter() - started)

    def _version(self) -> str:
        scale = self.calibration
        own = f"{self.model or 'served'}/{self.family.name}-{self.family.version}/{self.explain}"
        return f"{own}/t{scale.temperature:g}b{scale.bias:g}"


EXPLAIN: tuple[Literal["never", "uncertain", "always"], ...] = ("never", "uncertain", "always")


def _own_fields(tenant: str | None, priority: int | None, *, classifies: bool) -> dict[str, object]:
    """What goes with every request. Salts may hold no slash or at sign, so a tenant's name is hashed."""
    fields: dict[str, object] = {}
    if tenant is not None and not classifies:
        fields["cache_salt"] = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    if priority is not None:
        fields["priority"] = priority
    return fields
