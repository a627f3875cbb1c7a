"""Where a guard's replicas are, which of them a stream belongs to, and which are out of order.

Sans-IO: nothing here sends anything; times come from the caller. Safe to use from several event loops and threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from guardmw.errors import GuardConfigError

__all__ = ["Breaker", "Endpoint", "endpoints", "masked", "ranked"]

MAX_FAILURES = 3
"""Failures in a row after which a replica is left alone for a while."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0
PROBE_S = 5.0
"""After how long a probe that never came back is given up."""


@dataclass(slots=True)
class Breaker:
    """Leaves a failing replica alone: after `MAX_FAILURES` in a row nobody calls it for a pause that doubles each time.

    When the pause is over one call goes through as a probe (half open); its success closes the breaker, its failure
    begins the next pause. Calls that were under way when it opened change nothing by failing. Times are seconds of any
    steady clock.
    """

    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    open_until_s: float | None = None
    _probing_until_s: float = float("-inf")

    def allows(self, now_s: float) -> bool:
        """Whether a call may go out now; taking it when half open makes it the probe."""
        if self.open_until_s is None:
            return True
        if now_s < self.open_until_s or now_s < self._probing_until_s:
            return False
        self._probing_until_s = now_s + PROBE_S
        return True

    def closed(self) -> bool:
        return self.open_until_s is None

    def succeeded(self) -> None:
        self.failures, self.pause_s, self.open_until_s = 0, FIRST_PAUSE_S, None
        self._probing_until_s = float("-inf")

    def failed(self, now_s: float) -> None:
        probed = self._probing_until_s > float("-inf")
        if self.open_until_s is not None and not probed:
            return
        self.failures += 1
        if self.open_until_s is not None:
            self.pause_s = min(2 * self.pause_s, MAX_PAUSE_S)
        if self.open_until_s is not None or self.failures >= MAX_FAILURES:
            self.open_until_s = now_s + self.pause_s
            self._probing_until_s = float("-inf")

    def abandoned(self) -> None:
        """The call ended without telling anything about the replica: another one may probe."""
        self._probing_until_s = float("-inf")


@dataclass(slots=True)
class Endpoint:
    """One replica: its base URL (without ``/v1``), its breaker, and the model it serves once that is known."""

    url: str = field(repr=False)
    host: str
    port: int
    breaker: Breaker = field(default_factory=Breaker)
    model: str | None = None

    @property
    def shown(self) -> str:
        """The URL for people: without name and password."""
        return masked(self.url)


def endpoints(urls: str | Sequence[str]) -> tuple[Endpoint, ...]:
    """The replicas at `urls`, one URL or several (a text may hold several, parted by commas).

    Raises GuardConfigError when there is none, when one is no ``http(s)://host[:port]``, or when one is given twice.
    """
    listed = [url.strip() for url in (urls.split(",") if isinstance(urls, str) else urls)]
    found = tuple(_endpoint(url) for url in listed if url)
    if not found:
        raise GuardConfigError("a vLLM guard needs the URL of its server, such as vllm:http://localhost:8000")
    if len({endpoint.url for endpoint in found}) < len(found):
        raise GuardConfigError("a vLLM guard's URLs must differ; each one is a replica of its own")
    return found


def _endpoint(url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise GuardConfigError(f"{masked(url)!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise GuardConfigError(f"{masked(url)!r} is no URL of a server; write http://host:port or https://host:port")
    path = parts.path.rstrip("/").removesuffix("/v1")
    base = SplitResult(parts.scheme, parts.netloc, path, "", "").geturl()
    return Endpoint(base, host, port or (443 if parts.scheme == "https" else 80))


def masked(url: str) -> str:
    """`url` without the secrets that may stand in it: name and password, and the values of its query."""
    before, at, rest = url.rpartition("@")
    scheme, mark, _ = before.partition("://")
    address = f"{scheme}{mark}***@{rest}" if at else url
    return address.partition("?")[0]


def ranked(among: Sequence[Endpoint], key: str) -> list[Endpoint]:
    """`among` in the order in which `key` prefers them: the same key gives the same order, whoever asks.

    Rendezvous hashing (Thaler and Ravishankar, 1998): when a replica is gone, only its own keys move.
    """
    return sorted(among, key=lambda endpoint: _weight(endpoint.url, key), reverse=True)


def _weight(url: str, key: str) -> bytes:
    return hashlib.blake2b(f"{url}\n{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
