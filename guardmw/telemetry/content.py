"""What telemetry may say about a text: by default its length and a keyed hash, never the text.

The text itself is recorded only when ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` is ``SPAN_ONLY``,
``EVENT_ONLY`` or ``SPAN_AND_EVENT``, cut to `CAPTURE_CHARS`. The environment is read once.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from functools import cache
from typing import Literal, get_args

from guardmw.telemetry import names
from guardmw.types import Check, Decision, apply_redactions

CAPTURE_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
Capture = Literal["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"]

CAPTURE_CHARS = 4096
"""No more of a text than this many characters is recorded."""

_KEY = secrets.token_bytes(32)  # per process, so that a hash in a log can't be brute-forced back to its text


@cache
def capture() -> Capture:
    """What the user allowed to be recorded; anything not understood counts as ``NO_CONTENT``."""
    wanted = os.environ.get(CAPTURE_VARIABLE, "").strip().upper()
    return next((value for value in get_args(Capture) if value == wanted), "NO_CONTENT")


def described(check: Check) -> dict[str, str | int]:
    """Length and hash of the text; equal texts have equal hashes within one process."""
    digest = hmac.digest(_KEY, check.content.encode("utf-8", "surrogatepass"), "sha256")
    return {names.CONTENT_HASH: f"hmac-sha256:{digest.hex()}", names.CONTENT_CHARS: len(check.content)}


def on_span(decision: Decision) -> dict[str, str]:
    """The text before and after the decision as JSON, if the user wants it on spans."""
    return _captured(decision) if capture() in ("SPAN_ONLY", "SPAN_AND_EVENT") else {}


def on_event(decision: Decision) -> dict[str, str]:
    """The text before and after the decision as JSON, if the user wants it on events."""
    return _captured(decision) if capture() in ("EVENT_ONLY", "SPAN_AND_EVENT") else {}


def _captured(decision: Decision) -> dict[str, str]:
    captured = {names.CONTENT_INPUT: _json(decision.check.content)}
    if not decision.withheld:
        captured[names.CONTENT_OUTPUT] = _json(_after(decision))
    return captured


def _after(decision: Decision) -> str:
    text = decision.check.content
    return apply_redactions(text, decision.redactions) if decision.enforced == "redact" else text


def _json(text: str) -> str:
    return json.dumps(text[:CAPTURE_CHARS])
