"""Which policy holds for which agent, and keeping policies current while the program runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Protocol

from guardmw.errors import PolicyError, UnknownAgentError
from guardmw.policy.globs import is_glob, literal_chars, overlap
from guardmw.policy.schema import Policy

logger = logging.getLogger("guardmw.policy")

DEFAULT = "default"
"""The id of the policy for agents that no pattern names, and the name of an agent that nobody named."""


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """A policy, its file, and the line of each key that errors may speak of (``id``, ``agents.0`` …)."""

    policy: Policy
    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)

    def error(self, problem: str, mend: str, key: str) -> PolicyError:
        return PolicyError(problem, mend=mend, file=self.file, line=self.lines.get(key), key=key)


class PolicySource(Protocol):
    """Where a set's policies come from. `load` cuts them out of their origin, raising PolicyError; `changed` tells
    cheaply whether that would bring anything new since the last `load`, a failed one included."""

    def load(self) -> Sequence[PlacedPolicy]: ...

    def changed(self) -> bool: ...


class PolicySet:
    """Policies by id and by agent; immutable but for `reload`, which swaps all of them at once. Thread-safe.

    Raises PolicyError when two policies share an id, two name the same agent, or two equally specific patterns of
    different policies match a common name; and when there is no policy at all.
    """

    def __init__(self, policies: Iterable[Policy] = (), *, source: PolicySource | None = None) -> None:
        self._source = source
        self._index = _Index(source.load() if source else [PlacedPolicy(policy) for policy in policies])
        self._reloading = threading.Lock()
        self._looked_at_s = time.monotonic()
        self._last_error: PolicyError | None = None

    def __repr__(self) -> str:
        return f"PolicySet({', '.join(self._index.by_id)})"

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies by id, in the order of loading."""
        return dict(self._index.by_id)

    @property
    def last_error(self) -> PolicyError | None:
        """Why the last reload kept the old policies; None after a good one."""
        return self._last_error

    def for_agent(self, agent: str) -> Policy:
        """The policy of `agent`.

        In this order: the policy that names it exactly; the one with the most specific matching pattern (most literal
        characters); the policy with the id ``default``; the only policy there is, if that one names no agents or the
        agent has no name of its own (``default``). Names are compared with case.

        Raises UnknownAgentError when none of these is there.
        """
        return self._index.find(agent)

    def due(self, interval_s: float = 1.0) -> bool:
        """True at most once per `interval_s`, and never for a set that isn't read from files: time to `reload`.

        Looks at the clock only, so it may be asked before every check.
        """
        now_s = time.monotonic()
        if self._source is None or now_s - self._looked_at_s < interval_s:
            return False
        self._looked_at_s = now_s
        return True

    def stale(self) -> bool:
        """True when a file or directory that these policies were read from has changed. Asks the file system."""
        return self._source is not None and self._source.changed()

    def reload(self) -> bool:
        """Read the policies again if anything changed; True when other policies hold now.

        A set that can't be used changes nothing: the old one stays as a whole, `last_error` says why, and the logger
        ``guardmw.policy`` warns once per distinct problem. Blocks on the file system: call it in a thread. Returns
        False at once while another thread reloads.
        """
        if not self._reloading.acquire(blocking=False):
            return False
        try:
            return self._reload()
        finally:
            self._reloading.release()

    def _reload(self) -> bool:
        if self._source is None or not self._source.changed():
            return False
        try:
            index = _Index(self._source.load())
        except PolicyError as error:
            if str(error) != str(self._last_error):
                logger.warning("policies not reloaded, the old ones stay: %s", error)
            self._last_error = error
            return False
        self._last_error = None
        replaced = index.by_id != self._index.by_id
        self._index = index
        return replaced


class _Index:
    """One state of a policy set, checked and ready for look-ups."""

    def __init__(self, placed: Sequence[PlacedPolicy]) -> None:
        _refuse_clashes(placed)
        self.by_id = {one.policy.id: one.policy for one in placed}
        patterns = [(pattern, policy) for policy in self.by_id.values() for pattern in policy.agents]
        self._exact = {pattern: policy for pattern, policy in patterns if not is_glob(pattern)}
        globs = [pair for pair in patterns if is_glob(pair[0])]
        self._globs = sorted(globs, key=lambda pair: literal_chars(pair[0]), reverse=True)

    def find(self, agent: str) -> Policy:
        if exact := self._exact.get(agent):
            return exact
        for pattern, policy in self._globs:
            if fnmatchcase(agent, pattern):
                return policy
        if default := self.by_id.get(DEFAULT) or self._only(agent):
            return default
        raise UnknownAgentError(agent, sorted({*self._exact, *(pattern for pattern, _ in self._globs)}))

    def _only(self, agent: str) -> Policy | None:
        only = next(iter(self.by_id.values())) if len(self.by_id) == 1 else None
        return only if only and (agent == DEFAULT or not only.agents) else None


def _refuse_clashes(placed: Sequence[PlacedPolicy]) -> None:
    if not placed:
        raise PolicyError("no policy given", mend="Give at least one policy, file, directory or bundled id.")
    for one, other in combinations(placed, 2):
        if one.policy.id == other.policy.id:
            files = f": {one.file} holds it too" if one.file else ""
            raise other.error(f"two policies have the id {one.policy.id!r}{files}", "Rename one of them.", "id")
        _refuse_rivals(one, other)


def _refuse_rivals(one: PlacedPolicy, other: PlacedPolicy) -> None:
    for place, pattern in enumerate(other.policy.agents):
        for rival in one.policy.agents:
            if _undecided(pattern, rival):
                raise other.error(
                    f"{pattern!r} of the policy {other.policy.id!r} and {rival!r} of the policy {one.policy.id!r} "
                    "match the same agents, neither more specifically",
                    "Name the agents exactly, or make one pattern longer.",
                    f"agents.{place}",
                )


def _undecided(one: str, other: str) -> bool:
    if not is_glob(one) or not is_glob(other):
        return one == other
    return literal_chars(one) == literal_chars(other) and overlap(one, other)
