"""What a guard is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from guardmw.policy.schema import Policy
from guardmw.types import Check, Verdict


@runtime_checkable
class Guard(Protocol):
    """Judges one check under one policy.

    A guard answers with a probability for every category of the policy that applies to the check's surface; it takes
    no decision. It must be safe to call concurrently, must not block the event loop, and must let itself be cancelled.

    Raises GuardError (or any of its kinds) when it can't judge; it never answers "safe" instead.
    """

    name: str
    version: str

    async def check(self, check: Check, policy: Policy) -> Verdict: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Preparing(Protocol):
    """A guard that gains from knowing a policy before the first check under it."""

    def prepare(self, policy: Policy) -> None:
        """Begins to get ready for `policy` and returns at once. Never raises: the first check tells what is wrong."""
