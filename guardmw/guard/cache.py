"""Verdicts already given, so that a conversation sent again isn't judged again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace

from guardmw.guard.base import Guard
from guardmw.policy.schema import Policy
from guardmw.types import Check, Verdict


class VerdictCache:
    """Keeps the newest `size` verdicts, keyed by policy, guard version and everything the guard is shown.

    Checks of streams are not kept: their text grows with every check. Size 0 keeps nothing.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def get(self, check: Check, policy: Policy, guard: Guard) -> Verdict | None:
        if check.stream_id is not None or not self._verdicts:
            return None
        key = _key(check, policy, guard)
        verdict = self._verdicts.get(key)
        if verdict is None:
            return None
        self._verdicts.move_to_end(key)
        return replace(verdict, cached=True, duration_s=0.0)

    def put(self, check: Check, policy: Policy, guard: Guard, verdict: Verdict) -> None:
        if check.stream_id is not None or self._size == 0:
            return
        self._verdicts[_key(check, policy, guard)] = verdict
        if len(self._verdicts) > self._size:
            self._verdicts.popitem(last=False)


def _key(check: Check, policy: Policy, guard: Guard) -> bytes:
    shown = (
        policy.id, policy.hash, guard.name, guard.version,
        check.surface, check.content, check.conversation, check.calls, check.offset_chars,
    )  # fmt: skip
    return hashlib.blake2b(repr(shown).encode("utf-8", "surrogatepass"), digest_size=16).digest()
