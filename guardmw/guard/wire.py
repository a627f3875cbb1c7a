"""Brings requests to a guard's replicas and answers back: pooled, within a deadline, to another replica when one fails.

Judging twice does no harm, so whatever failed may be tried again while there is time. A replica that fails or hangs
costs a part of the deadline, never the decision.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from guardmw.errors import (
    GuardAnswerError,
    GuardConfigError,
    GuardConnectionError,
    GuardError,
    GuardTimeoutError,
)
from guardmw.guard.endpoints import Endpoint, ranked
from guardmw.guard.replies import Failure, failure_of, models_in, parsed

if TYPE_CHECKING:
    import httpx

__all__ = ["Deadline", "Wire", "sendable"]

ROUNDS = 3
FIRST_PAUSE_S = 0.02
KEEP_ALIVE_S = 4.0
"""vLLM's server closes idle connections after 5 s; ours are given up before it does."""
MAX_CONNECTIONS = 256
LAST_SHARE = 0.97
"""Share of the remaining time that the last replica gets, so that our own error comes before the caller's deadline."""
FAIR_SHARE = 0.1
"""A replica that didn't answer in less of the deadline isn't blamed: the check had waited for its turn too long."""
_SENDABLE = re.compile(r"[!-~]+ [!-~]+")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When one check's answers must be there, on the event loop's clock, of `allowed_s` that it had in all; and the
    URLs of the replicas that its failures were counted against."""

    until_s: float
    allowed_s: float
    blamed: set[str] = field(default_factory=set)

    def left_s(self) -> float:
        return self.until_s - asyncio.get_running_loop().time()


class Wire:
    """The connections to `endpoints`; one client per event loop. `headers` go with every request.

    Raises GuardConfigError when httpx is missing or a header can't be sent.
    """

    def __init__(
        self, endpoints: tuple[Endpoint, ...], headers: Mapping[str, str], transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._httpx = _httpx()
        self.endpoints = endpoints
        given = {name: sendable(value) for name, value in headers.items()}
        self._headers = {"content-type": "application/json", "accept": "application/json", **given}
        self._transport = transport
        # Read here, not on first use: reading certificates would block the event loop.
        secure = any(endpoint.url.startswith("https") for endpoint in endpoints)
        self._tls = ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._urls: dict[str, httpx.URL] = {}
        self._closed = False

    async def post(
        self, path: str, body: dict[str, Any], *, key: str, deadline: Deadline, headers: dict[str, str]
    ) -> tuple[dict[str, Any], Endpoint]:
        """The answer to `body` of the first replica, in the order that `key` gives, that has one; and that replica.

        A ``model`` of None in `body` is replaced by what the replica serves. Raises the GuardError of the last replica
        that failed: GuardConnectionError, GuardTimeoutError, GuardOverloadedError, GuardAnswerError, GuardConfigError,
        GuardContextError.
        """
        if self._closed:
            raise GuardError(f"the guard at {self} is closed; build a new one")
        order, pause_s = ranked(self.endpoints, key), FIRST_PAUSE_S
        for turn in range(1, ROUNDS + 1):
            try:
                return await self._round(order, path, body, deadline, headers)
            except Failure as failure:
                wait_s = max(pause_s, failure.retry_after_s or 0.0)
                final = turn == ROUNDS or not (failure.elsewhere and failure.again) or wait_s >= deadline.left_s()
                if final:
                    raise failure.error from failure
            await asyncio.sleep(wait_s)
            pause_s *= 4
        raise AssertionError("the last round neither answered nor raised")

    async def _round(
        self, order: list[Endpoint], path: str, body: dict[str, Any], deadline: Deadline, headers: dict[str, str]
    ) -> tuple[dict[str, Any], Endpoint]:
        """The first answer that one of `order` gives. Raises the last Failure when none does."""
        failure = Failure(
            GuardConnectionError(f"every server of the guard failed lately and is left alone for a while: {self}")
        )
        for place, endpoint in enumerate(order):
            if not endpoint.breaker.allows(asyncio.get_running_loop().time()):
                continue
            others = any(other.breaker.closed() for other in order[place + 1 :])
            try:
                return await self._try(endpoint, path, body, deadline, headers, others=others), endpoint
            except Failure as failed:
                failure = failed
                if not failed.elsewhere:
                    break
        raise failure

    async def aclose(self) -> None:
        """Close for good. May be called twice."""
        self._closed = True
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close the connections of this event loop; those of others end with them."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def __str__(self) -> str:
        return ", ".join(endpoint.shown for endpoint in self.endpoints)

    async def _try(
        self,
        endpoint: Endpoint,
        path: str,
        body: dict[str, Any],
        deadline: Deadline,
        headers: dict[str, str],
        *,
        others: bool,
    ) -> dict[str, Any]:
        """One replica's answer. Raises Failure; tells the replica's breaker what came of it."""
        allowed_s = max(0.001, deadline.left_s() * (0.5 if others else LAST_SHARE))
        breaker = endpoint.breaker
        try:
            async with asyncio.timeout(allowed_s):
                answer = await self._exchange(endpoint, path, body, headers)
        except TimeoutError as error:
            _blame(endpoint, deadline, fair=allowed_s >= deadline.allowed_s * FAIR_SHARE)
            late = GuardTimeoutError(endpoint.shown, deadline.allowed_s)
            raise Failure(late, elsewhere=True, again=False) from error
        except Failure as failure:
            if failure.broken:
                _blame(endpoint, deadline)
            else:
                breaker.succeeded()
            raise
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return answer

    async def _exchange(
        self, endpoint: Endpoint, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> dict[str, Any]:
        if body.get("model") is not None or path == "/tokenize":
            return await self._call("POST", endpoint, path, body, headers)
        model = endpoint.model or await self._served_model(endpoint)
        try:
            return await self._call("POST", endpoint, path, {**body, "model": model}, headers)
        except Failure as failure:
            # The server may have come back with another model since we asked.
            if not failure.missing or (serves := await self._served_model(endpoint)) == model:
                raise
        return await self._call("POST", endpoint, path, {**body, "model": serves}, headers)

    async def _served_model(self, endpoint: Endpoint) -> str:
        served = models_in(await self._call("GET", endpoint, "/v1/models", None, {}))
        if not served:
            raise Failure(GuardConfigError(f"{endpoint.shown} serves no model"), elsewhere=True, again=False)
        endpoint.model = served[0]
        return served[0]

    async def _call(
        self, method: str, endpoint: Endpoint, path: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            response = await self._client().request(method, self._url(endpoint, path), content=content, headers=headers)
        except self._httpx.DecodingError as error:
            raise Failure(
                GuardAnswerError(f"the answer of {endpoint.shown} can't be unpacked: {error}"), broken=True
            ) from error
        except self._httpx.HTTPError as error:
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Failure(
                GuardConnectionError(f"{endpoint.shown} can't be reached or broke off ({said}); is the server up?"),
                broken=True,
            ) from error
        if response.status_code != 200:
            raise failure_of(response.status_code, response.headers, response.content, endpoint.shown)
        return parsed(response.content, endpoint.shown)

    def _url(self, endpoint: Endpoint, path: str) -> httpx.URL:
        """Parsed once: it would take as long as reading the answer."""
        url = self._urls.get(endpoint.url + path)
        if url is None:
            url = self._urls[endpoint.url + path] = self._httpx.URL(endpoint.url + path)
        return url

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = self._httpx.AsyncClient(
                headers=self._headers,
                transport=self._transport,
                verify=self._tls,
                timeout=None,  # every call runs inside `asyncio.timeout`
                limits=self._httpx.Limits(
                    max_connections=MAX_CONNECTIONS,
                    max_keepalive_connections=MAX_CONNECTIONS,
                    keepalive_expiry=KEEP_ALIVE_S,
                ),
                # A proxy from the environment would read every text on its way to the guard.
                trust_env=False,
            )
        return client


def sendable(value: str) -> str:
    """The header `value`, a word and a key, without the space around the key: files end in a newline.

    Raises GuardConfigError, which doesn't show it, when it can't be sent: httpx would show it in an error of its own.
    """
    word, _, key = value.partition(" ")
    stripped = f"{word} {key.strip()}"
    if not _SENDABLE.fullmatch(stripped):
        raise GuardConfigError(
            "the guard's key can't be sent: it is empty, or holds a space, a line break or another character that is "
            "not ASCII; check `api_key` and the environment variable it comes from"
        )
    return stripped


def _blame(endpoint: Endpoint, deadline: Deadline, *, fair: bool = True) -> None:
    """Counts a failure of `endpoint`, once per check: a text that breaks servers must not cut all others off."""
    breaker = endpoint.breaker
    if fair and not (breaker.closed() and endpoint.url in deadline.blamed):
        deadline.blamed.add(endpoint.url)
        breaker.failed(asyncio.get_running_loop().time())
    else:
        breaker.abandoned()


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise GuardConfigError(
            "the vLLM guard needs httpx, which isn't installed; run: pip install 'guardmw[vllm]'"
        ) from error
    return httpx
