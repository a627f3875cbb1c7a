"""Phone numbers: a shape first, since numbers are everywhere, then the numbering plans of `phonenumbers`."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from guardmw.policy.detector import Detector, Span, context_before

_SEPARATOR = r"[ .\-/()]"
_PHONE = re.compile(
    rf"(?<![\w.+/#$-])(?:\+\d|\(?\d)(?:{_SEPARATOR}{{0,2}}\d){{6,17}}"
    r"(?: ?(?:[xX]|[eE]xt\.?) ?\d{1,6})?(?![\w]|[-/.]\d)",
    re.ASCII,
)
_GATE = re.compile(rf"\d(?:{_SEPARATOR}{{0,2}}\d){{6}}", re.ASCII)
_GROUP_END = re.compile(r"(?<=\d)(?!\d)", re.ASCII)
_NORTH_AMERICAN = re.compile(r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}|(?:1[ .-]?)?\d{3} \d{3}[ -]\d{4}", re.ASCII)
_BARE = re.compile(r"\d+", re.ASCII)
_NOT_PHONE = re.compile(
    r"\d{1,3}(?:\.\d{1,3}){3}|(?:19|20)\d\d[-/.]\d\d?[-/.]\d\d?.*|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d.*|\d{3}-\d{2}-\d{4}",
    re.ASCII,
)
_TOLD = re.compile(
    r"phone|\btel\b|\bcall|mobile|\bcell|\bfax|whatsapp|\btext|\bsms|\bdial|\bring|contact|reach (?:me|us|him|her|them)",
    re.IGNORECASE,
)
_OTHER_NUMBER = re.compile(
    r"\b(?:order|invoice|account|acct|ticket|tracking|case|ref(?:erence)?|serial|model|part|isbn|id|ssn|card|routing|"
    r"zip|code|transaction|port|pid|bytes?)\b",
    re.IGNORECASE,
)
_TRIES = 5


def phone_detector(region: str) -> Detector:
    """Numbers with a country code, and those written as in `region` (ISO 3166). All metadata is loaded here, once."""
    import phonenumbers

    phonenumbers.PhoneMetadata.load_all()
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
    return Detector("phone", _PHONE, partial(_phone, region=region, metadata=metadata), gate=_GATE)


def _phone(match: re.Match[str], region: str, metadata: Any) -> Span | None:
    """The longest phone number that starts here and ends with one of the groups of digits."""
    text, context = match[0], context_before(match)
    ends = [end.start() for end in _GROUP_END.finditer(text)][-1 : -_TRIES - 1 : -1]
    for end in ends:
        if _is_phone(text[:end], context, region, metadata):
            opened = text[0] == "(" and ")" not in text[:end]
            return match.start() + opened, match.start() + end
    return None


def _is_phone(text: str, context: str, region: str, metadata: Any) -> bool:
    number = re.split(r"[xXeE]", text, maxsplit=1)[0].strip()
    digits = re.sub(r"\D", "", number)
    if not 7 <= len(digits) <= 15 or _NOT_PHONE.fullmatch(number):
        return False
    if text[0] == "+":
        return _is_possible(digits)
    if _TOLD.search(context) and not _OTHER_NUMBER.search(context):
        return len(set(digits)) > 1
    return _is_national(number, digits, context, region, metadata)


def _is_possible(digits: str) -> bool:
    import phonenumbers

    try:
        number = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE)


def _is_national(number: str, digits: str, context: str, region: str, metadata: Any) -> bool:
    """Written as in the region: with its trunk prefix, or in the groups of North America."""
    import phonenumbers

    if metadata is None or _OTHER_NUMBER.search(context):
        return False
    if metadata.country_code == 1:
        grouped = _NORTH_AMERICAN.fullmatch(number) is not None
        if grouped and " " not in number[5:]:
            return digits[-10] in "23456789" and digits[-7] in "23456789"
        if not grouped and not (_BARE.fullmatch(number) and len(digits) == 10):
            return False
    elif metadata.national_prefix == "0" and digits[0] != "0":
        return False
    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(digits, region)))
    except phonenumbers.NumberParseException:
        return False
