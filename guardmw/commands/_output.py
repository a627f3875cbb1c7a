"""What all commands share: exit codes, and printing text that nobody vouches for."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

FINE: Final = 0
FOUND: Final = 1
COULD_NOT_RUN: Final = 2

GUARDS: Final = "The guard: embedded, detectors, vllm:URL or cascade:URL."


def complain(message: str) -> None:
    """Print `message` on standard error: one line, or one for each of several problems."""
    sys.stderr.write(f"guardmw: {printable(message.strip())}\n")


def print_json(value: Any) -> None:
    """Print `value` as JSON in ASCII, which every terminal and pipe takes."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def printable(text: str) -> str:
    """`text`, of the same length, with everything that could steer a terminal or break its encoding made visible."""
    return "".join(character if _harmless(character) else _visible(character) for character in text)


def _harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t"


def _visible(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"
