"""Detectors of personal data. Validity (check digits, allotted ranges) is `stdnum`'s and `phonenumbers`' business."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from itertools import accumulate
from typing import assert_never

from guardmw.policy.detector import MANY_DIGITS, Detector, Span, preceded_by, whole
from guardmw.policy.national_ids import national_id_detector
from guardmw.policy.phone import phone_detector
from guardmw.policy.schema import PiiDetector, PiiEntity

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z0-9_](?:[A-Za-z0-9._%+'&-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})"
    r"(?![A-Za-z0-9]|[-_][A-Za-z0-9])"
)
_AT = re.compile("@")
_NOT_EMAIL = re.compile(r"git@|.*@\dx\.", re.IGNORECASE)

_CARD = re.compile(r"(?<!\d)(?:\d{3,19}(?:[ -]\d{3,8}){0,5}|(?<!\d[ -])\d(?:[ -]\d){11,18})(?!\d)", re.ASCII)
_CARD_LENGTHS = {
    r"4": (16, 13, 19),
    r"5[1-5]|22[2-9]|2[3-6]|27[01]|2720": (16,),
    r"3[47]|1800|2131": (15,),
    r"3(?:0[0-5]|[689])": (14, 16),
    r"6(?:011|4[4-9]|5)": (16, 19),
    r"35|220[0-4]": (16,),
    r"62": (16, 17, 18, 19),
    r"50(?:18|20|38)|5893|6304|6759|676[1-3]": (16, 12, 13, 14, 15, 17, 18, 19),
}
"""How many digits the numbers have that begin so (ISO/IEC 7812), the usual length first."""
_CARD_DIGITS = 12
_CARD_CONTEXT = re.compile(r"card|visa|master|amex|\bcc\b|maestro", re.IGNORECASE)
_DIGITS = re.compile(r"\d+", re.ASCII)
_ISSUER = re.compile("|".join(f"({prefix})" for prefix in _CARD_LENGTHS))
_LENGTHS = tuple(_CARD_LENGTHS.values())

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![a-z0-9])", re.ASCII)
_IBAN_GATE = re.compile(r"[A-Z]{2}\d\d ?[A-Z0-9]", re.ASCII)
_IBAN_LOWER = re.compile(r"(?<![A-Za-z0-9])[a-z]{2}\d{2}[a-z0-9]{11,30}(?![A-Za-z0-9])", re.ASCII)
_IBAN_LOWER_GATE = re.compile(r"\d\d[a-z0-9]{11}", re.ASCII)
_IBAN_CONTEXT = re.compile(r"iban\W{0,12}$", re.IGNORECASE)
_IBAN_PART = re.compile(r"(\d+)!?[anc]")

_SSN = re.compile(r"(?<![\w-])(?:\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}|\d{9})(?![\w]|-\d)", re.ASCII)
_SSN_CONTEXT = re.compile(r"ssn|social.?security|soc\.? ?sec", re.IGNORECASE)

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{1,4})?(?![\w:]|\.\d)", re.ASCII
)
_IPV4_GATE = re.compile(r"\d\.\d", re.ASCII)
_IPV6_GATE = re.compile(r":[0-9A-Fa-f]{0,4}:")
_VERSION_CONTEXT = re.compile(r"(?:version|release|build|ver\.?|v\.?)\s{0,2}$", re.IGNORECASE)

_MAC = re.compile(
    r"(?<![\w:-])(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}"
    r"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![\w]|[:-]\w)",
    re.ASCII,
)
_MAC_GATE = re.compile(r"[:-][0-9A-Fa-f]{2}[:-]|\.[0-9A-Fa-f]{4}\.")

_BITCOIN = re.compile(
    r"(?<![A-Za-z0-9])(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[ac-hj-np-z02-9]{11,71}|BC1[AC-HJ-NP-Z02-9]{11,71})"
    r"(?![A-Za-z0-9])"
)
_BITCOIN_GATE = re.compile(r"[13][1-9A-HJ-NP-Za-km-z]{25}|(?:bc|BC)1")
_ETHEREUM = re.compile(r"(?<![A-Za-z0-9])0x[0-9A-Fa-f]{40}(?![A-Za-z0-9])")


def pii_detectors(config: PiiDetector) -> list[Detector]:
    """The detectors of `config.entities`, in that order. What they import and read is loaded now, not in a stream."""
    for module in ("bitcoin", "iban", "luhn", "us.ssn"):
        import_module(f"stdnum.{module}")
    _iban_chars("GB")
    return [detector for entity in config.entities for detector in _detectors(entity, config.phone_region)]


def _detectors(entity: PiiEntity, region: str) -> Iterator[Detector]:
    match entity:
        case "email":
            yield Detector(entity, _EMAIL, _email, gate=_AT, max_chars=1024)
        case "phone":
            yield phone_detector(region)
        case "credit_card":
            yield Detector(entity, _CARD, _card, gate=MANY_DIGITS)
        case "iban":
            yield Detector(entity, _IBAN, _iban, gate=_IBAN_GATE)
            yield Detector(entity, _IBAN_LOWER, _iban, gate=_IBAN_LOWER_GATE)
        case "us_ssn":
            yield Detector(entity, _SSN, _ssn, gate=MANY_DIGITS)
        case "national_id":
            yield national_id_detector()
        case "ip_address":
            yield Detector(entity, _IPV4, _ip, gate=_IPV4_GATE)
            yield Detector(entity, _IPV6, _ip, gate=_IPV6_GATE)
        case "mac_address":
            yield Detector(entity, _MAC, _mac, gate=_MAC_GATE)
        case "crypto_wallet":
            yield Detector(entity, _BITCOIN, _bitcoin, gate=_BITCOIN_GATE)
            yield Detector(entity, _ETHEREUM, leads=("0x",))
        case _:
            assert_never(entity)


def _email(match: re.Match[str]) -> Span | None:
    """Not `git@host` of clone addresses, nor `icon@2x.png`."""
    return None if _NOT_EMAIL.match(match[0]) else match.span()


def _card(match: re.Match[str]) -> Span | None:
    """A card number of a known issuer's length that ends with one of the digit groups; what follows may be a code."""
    from stdnum import luhn

    digits = match[0].replace(" ", "").replace("-", "")
    issuer = _ISSUER.match(digits)
    if issuer is None or issuer.lastindex is None or len(digits) < _CARD_DIGITS:
        return None
    groups = list(_DIGITS.finditer(match[0]))
    ends = dict(zip(accumulate(len(group[0]) for group in groups), (group.end() for group in groups), strict=True))
    lengths = [length for length in _LENGTHS[issuer.lastindex - 1] if length in ends]
    told = bool(lengths) and preceded_by(match, _CARD_CONTEXT)
    for length in lengths:
        if (told or length > _CARD_DIGITS) and luhn.is_valid(digits[:length]):
            return match.start(), match.start() + ends[length]
    usual = lengths[0] if told else None  # called a card: it was meant as one, mistyped or not
    return (match.start(), match.start() + ends[usual]) if usual and usual > _CARD_DIGITS else None


def _iban(match: re.Match[str]) -> Span | None:
    """A valid IBAN of its country's length, which upper-case words may follow; or whatever is called an IBAN."""
    from stdnum import iban

    length = _iban_chars(match[0][:2].upper())
    text, end = match[0], 0
    for _ in range(length or 0):
        end += 1 + text.startswith(" ", end)
    complete = 0 < end <= len(text) and not text[end : end + 1].isalnum()
    if complete and iban.is_valid(text[:end], check_country=False):
        return match.start(), match.start() + end
    return match.span() if preceded_by(match, _IBAN_CONTEXT) else None


@lru_cache(maxsize=1024)
def _iban_chars(country: str) -> int | None:
    """How many characters that country's IBANs have (ISO 13616), None where there are none."""
    from stdnum import numdb

    _, properties = numdb.get("iban").info(country)[0]
    parts = _IBAN_PART.findall(properties.get("bban", ""))
    return 4 + sum(map(int, parts)) if parts else None


def _ssn(match: re.Match[str]) -> Span | None:
    """Separated and valid, or called one."""
    from stdnum.us import ssn

    separated = not match[0].isdigit()
    valid = separated and ssn.is_valid(match[0].replace(" ", "-"))
    return match.span() if valid or preceded_by(match, _SSN_CONTEXT) else None


def _ip(match: re.Match[str]) -> Span | None:
    """Addresses that could be someone's: not versions, loopback or unspecified ones, nor names such as ``a::b``."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return None
    if address.is_loopback or address.is_unspecified or match[0].startswith("255."):
        return None
    if address.version == 6 and not any(character.isdigit() for character in match[0]):
        return None
    return None if preceded_by(match, _VERSION_CONTEXT) else match.span()


def _mac(match: re.Match[str]) -> Span | None:
    digits = set(re.sub(r"[:.-]", "", match[0]).lower())
    return None if digits in ({"0"}, {"f"}) else whole(match)


def _bitcoin(match: re.Match[str]) -> Span | None:
    from stdnum import bitcoin

    return match.span() if bitcoin.is_valid(match[0]) else None
