"""Guards on servers by name: ``vllm:http://a:8000,http://b:8000?family=gspr&explain=uncertain`` and ``cascade:…``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from guardmw.errors import GuardConfigError
from guardmw.guard.calibration import Calibration

if TYPE_CHECKING:
    from guardmw.guard.remote import RemoteEmbeddedGuard
    from guardmw.guard.vllm import VllmGuard

__all__ = ["API_KEY_VARIABLE", "FORM", "LOCAL_URL", "URL_VARIABLE", "encoder_at", "guard_at", "url_from_environment"]

URL_VARIABLE = "GUARDMW_GUARD_URL"
"""Where the guards ``vllm`` and ``cascade`` find their server: URLs and options, as behind ``vllm:``."""
LOCAL_URL = "http://127.0.0.1:8000"
"""Where `guardmw guard serve` listens unless told otherwise."""
API_KEY_VARIABLE = "GUARDMW_GUARD_API_KEY"
FORM = "vllm:http://host:8000[,http://other:8000][?model=…&family=…&explain=never|uncertain|always]"
ENCODER_FORM = "embedded:http://host:8000[,http://other:8000][?weights=FOLDER]"

OPTIONS = ("model", "family", "explain", "tenant", "api_key", "priority", "temperature", "bias", "labels")
"""What may stand behind the question mark, and ``map.LABEL=category,…`` for guards with labels of their own."""


def guard_at(spec: str) -> VllmGuard:
    """The guard that `spec` (what stands behind ``vllm:``) describes; the key comes from the environment unless given.

    Raises GuardConfigError that names the part which can't be used; values that may be secret are not repeated.
    """
    from guardmw.guard.vllm import VllmGuard

    urls, given = _parted(spec, FORM)
    options = _options(given)
    options.setdefault("api_key", os.environ.get(API_KEY_VARIABLE))
    return VllmGuard(urls, **options)


def encoder_at(spec: str) -> RemoteEmbeddedGuard:
    """The embedded guard whose encoder is served at `spec` (what stands behind ``embedded:``).

    Raises GuardConfigError as `guard_at` does.
    """
    from guardmw.guard.remote import RemoteEmbeddedGuard

    urls, given = _parted(spec, ENCODER_FORM)
    unknown = [key for key, _ in given if key not in ("weights", "api_key")]
    if unknown or len(dict(given)) < len(given):
        raise GuardConfigError(f"the embedded guard's options are weights and api_key, each once. Form: {ENCODER_FORM}")
    options = {key: _filled(key, value) for key, value in given}
    weights = Path(options["weights"]).expanduser() if "weights" in options else None
    key = options.get("api_key", os.environ.get(API_KEY_VARIABLE))
    return RemoteEmbeddedGuard(urls, weights=weights, api_key=key)


def url_from_environment() -> str:
    """What `URL_VARIABLE` holds, `LOCAL_URL` when that is nothing."""
    return os.environ.get(URL_VARIABLE, "").strip().removeprefix("vllm:") or LOCAL_URL


def _parted(spec: str, form: str) -> tuple[str, list[tuple[str, str]]]:
    """URLs and options."""
    urls, _, query = spec.partition("?")
    try:
        return urls, parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise GuardConfigError(f"the guard's options can't be read; write {form}") from error


def _options(given: list[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, str] = {}
    mapping: dict[str, tuple[str, ...]] = {}
    for key, value in given:
        if key in values or key.removeprefix("map.") in mapping:
            raise GuardConfigError(f"the guard's option {key!r} is given twice")
        if key.startswith("map."):
            mapping[key.removeprefix("map.")] = _listed(value)
        elif key in OPTIONS:
            values[key] = value
        else:
            raise GuardConfigError(
                f"the guard has no option {key!r}; there are {', '.join(OPTIONS)} and map.LABEL=category. Form: {FORM}"
            )
    return _typed(values) | ({"mapping": mapping} if mapping else {})


def _typed(values: dict[str, str]) -> dict[str, Any]:
    texts = ("model", "family", "explain", "tenant", "api_key")
    options: dict[str, Any] = {key: _filled(key, values[key]) for key in texts if key in values}
    if "priority" in values:
        options["priority"] = _number("priority", values["priority"], int)
    if "labels" in values:
        options["labels"] = _listed(values["labels"])
    scale = {key: _number(key, values[key], float) for key in ("temperature", "bias") if key in values}
    if scale:
        try:
            options["calibration"] = Calibration(**scale)
        except ValueError as error:
            raise GuardConfigError("the guard's temperature must be a number above 0, and its bias a number") from error
    return options


def _filled(key: str, value: str) -> str:
    if not value:
        raise GuardConfigError(f"the guard's option {key!r} is empty; leave it out or give it a value")
    return value


def _listed(value: str) -> tuple[str, ...]:
    """The parts of a list; a comma behind a backslash belongs to its part."""
    parts = (part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", value))
    return tuple(part for part in parts if part)


def _number(key: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise GuardConfigError(f"the guard's option {key!r} must be a number, not {value!r}") from error
