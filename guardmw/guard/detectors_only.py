"""The guard for those who want no model: detectors and rules alone decide."""

from __future__ import annotations

from guardmw.policy.schema import Policy
from guardmw.types import Check, Verdict


class DetectorsOnlyGuard:
    """Finds nothing. The checker runs a policy's detectors and rules before every guard, so with this one they are
    all that judges; categories of the policy are not judged at all."""

    name = "detectors"
    version = "1"

    async def check(self, check: Check, policy: Policy) -> Verdict:
        return Verdict(guard=self.name, guard_version=self.version)

    async def aclose(self) -> None:
        """Holds nothing."""
