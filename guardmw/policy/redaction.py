"""What stands in the place of something redacted."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import assert_never

from guardmw.policy.schema import Style

HASH_DIGITS = 6
_KEY = secrets.token_bytes(32)  # of this process only: hashes in logs can't be tried against guesses
_EMAIL = re.compile(r"(.)[^@]*@(.*)\.([^.]+)", re.DOTALL)
_SHOWN_AT_END = {
    "credit_card": 4,
    "iban": 4,
    "phone": 2,
    "us_ssn": 4,
    "national_id": 2,
    "crypto_wallet": 4,
    "mac_address": 2,
}


def replacement(entity: str, value: str, style: Style) -> str:
    """What replaces `value`, of the kind `entity`, in the given style."""
    match style:
        case "label":
            return f"[{_label(entity)}]"
        case "mask":
            return _mask(entity, value)
        case "hash":
            digest = hmac.new(_KEY, _canonical(value), hashlib.sha256).hexdigest()
            return f"[{_label(entity)}:{digest[:HASH_DIGITS]}]"
        case _:
            assert_never(style)


def _label(entity: str) -> str:
    return re.sub(r"\W", "_", entity).upper()


def _canonical(value: str) -> bytes:
    return re.sub(r"[\s().-]", "", value).casefold().encode("utf-8", "surrogatepass")


def _mask(entity: str, value: str) -> str:
    if entity == "email" and (parts := _EMAIL.fullmatch(value)):
        return f"{parts[1]}***@***.{parts[3]}"
    if entity in _SHOWN_AT_END:
        shown = _SHOWN_AT_END[entity]
        hidden = sum(character.isalnum() for character in value) - shown
        return _stars(value, hidden)
    if entity == "ip_address":
        return re.sub(r"[0-9A-Fa-f]+", "*", value)
    return "***"


def _stars(value: str, hidden: int) -> str:
    """`value` with its first `hidden` letters and digits as stars; what separates them stays."""
    result = []
    for character in value:
        hidden -= character.isalnum()
        result.append("*" if character.isalnum() and hidden >= 0 else character)
    return "".join(result)
