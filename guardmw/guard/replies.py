"""What servers answer, as values and errors. Sans-IO."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from guardmw.errors import (
    GuardAnswerError,
    GuardConfigError,
    GuardConnectionError,
    GuardContextError,
    GuardError,
    GuardOverloadedError,
)
from guardmw.types import TokenUsage

__all__ = ["Failure", "failure_of", "models_in", "parsed", "usage_of"]

SHOWN_CHARS = 300
_CONTEXT = re.compile(r"maximum context length is (\d+)|maximum model length of (\d+)|max_model_len|context length")
_MODEL = re.compile(r"model .* does not exist|model_not_found", re.IGNORECASE | re.DOTALL)


class Failure(Exception):
    """One attempt failed with `error`; it never leaves the client.

    `elsewhere`: another replica may do better. `again`: so may the same one, later. `broken`: the replica itself is at
    fault. `missing`: it knows no such model or route. `retry_after_s`: how long it asked to be left alone.
    """

    def __init__(
        self,
        error: GuardError,
        *,
        elsewhere: bool = True,
        again: bool = True,
        broken: bool = False,
        missing: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error, self.elsewhere, self.again = error, elsewhere, again
        self.broken, self.missing, self.retry_after_s = broken, missing, retry_after_s


def failure_of(status: int, headers: Mapping[str, str], content: bytes, server: str) -> Failure:
    """What an answer of another status than 200 means."""
    said = _message(content)
    match status:
        case 429 | 503:
            after_s = _retry_after_s(headers.get("retry-after"))
            late = f", and asks to be left alone for {after_s:g} s" if after_s else ""
            overloaded = GuardOverloadedError(f"{server} takes no more requests now ({status}){late}; give it replicas")
            return Failure(overloaded, broken=status == 503, retry_after_s=after_s)
        case 400 | 413 | 422 if found := _CONTEXT.search(said):
            limit = next((int(group) for group in found.groups() if group), None)
            return Failure(GuardContextError(said, limit), elsewhere=False)
        case 401 | 403:
            refused = f"{server} refuses the guard's key ({status}); check `api_key`"
            return Failure(GuardConfigError(refused), elsewhere=False)
        case 404:
            return Failure(GuardConfigError(_not_found(said, server)), again=False, missing=True)
        case _ if 400 <= status < 500:
            refused = f"{server} refuses the guard's request ({status}): {said or 'it does not say why'}"
            return Failure(GuardConfigError(refused), elsewhere=False)
        case _:
            failed = f"{server} failed ({status}): {said or 'it does not say why'}; look at the server's log"
            return Failure(GuardConnectionError(failed), broken=True)


def _not_found(said: str, server: str) -> str:
    if _MODEL.search(said):
        return f"{server} does not serve the guard's model ({said}); name one it serves, or none to take its first"
    return f"{server} has no such route ({said}); chat guards need a generating server, classifiers `--runner pooling`"


def parsed(content: bytes, server: str) -> dict[str, Any]:
    """The JSON object in `content`. Raises Failure when it holds none."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Failure(
            GuardAnswerError(f"{server} answered with something that is no JSON: {error}"), broken=True
        ) from (error)
    if not isinstance(answer, dict):
        raise Failure(
            GuardAnswerError(f"{server} answered with a JSON {type(answer).__name__}, not an object"), broken=True
        )
    return answer


def models_in(answer: Mapping[str, Any]) -> list[str]:
    """The ids in an answer of ``/v1/models``, in its order."""
    listed = answer.get("data")
    found = [each.get("id") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [model for model in found if isinstance(model, str)]


def usage_of(answer: Mapping[str, Any]) -> TokenUsage:
    """The tokens an answer says it took; what it doesn't say counts 0."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return TokenUsage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return TokenUsage(_count(usage.get("prompt_tokens")), _count(cached), _count(usage.get("completion_tokens")))


def _count(number: Any) -> int:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def _message(content: bytes) -> str:
    """The server's own words, at most SHOWN_CHARS of them."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace").strip()[:SHOWN_CHARS]
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        said = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        return str(said or "").strip()[:SHOWN_CHARS]
    return ""


def _retry_after_s(value: str | None) -> float | None:
    """Seconds in a ``Retry-After`` header (a number or a date), None when it says nothing usable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    aware = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
