"""Phone numbers: a shape first, since numbers are everywhere, then the numbering plans of `phonenumbers`."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from guardmw.policy.detector import MANY_DIGITS, Detector, Span, preceded_by

_PHONE = re.compile(
    r"(?<![\w.+/#$-])(?:\+\d{1,15}|\(?\d{1,15}\)?)(?:[ .\-/]{0,2}(?:\(0\) ?)?\(?\d{2,8}\)?){0,6}"
    r"(?: ?(?:[xX]|[eE]xt\.?) ?\d{1,6})?(?![\w]|[-/.]\d)",
    re.ASCII,
)
_GROUP_END = re.compile(r"(?<=\d)(?!\d)", re.ASCII)
_NORTH_AMERICAN = re.compile(
    r"(?:1[ .-]?)?(?:\(\d{3}\) ?\d{3}[-. ]?\d{4}|\d{3}[-.]\d{3}[-.]\d{4}|[2-9]\d\d( ?)[2-9]\d\d(?:\1|-)\d{4})(?!\d)",
    re.ASCII,
)
_FICTITIOUS = re.compile(r"(?:1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}", re.ASCII)
"""Grouped as only phone numbers are, whether the area exists (555) or not."""
_EXTENSION = re.compile(r"[xXeE]")
_NOT_DIGITS = re.compile(r"\D+", re.ASCII)
_NOT_PHONE = re.compile(
    r"\d{1,3}(?:\.\d{1,3}){3}|(?:19|20)\d\d[-/.]\d\d?[-/.]\d\d?.*|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d.*|\d{3}-\d{2}-\d{4}",
    re.ASCII,
)
_TOLD = re.compile(
    r"phone|\btel\b|\bcall|mobile|\bcell|\bfax|whatsapp|\btext(?:ing)?\s|\bsms|\bdial|\bring|contact"
    r"|reach (?:me|us|him|her|them)|answering|messages? (?:to|on)",
    re.IGNORECASE,
)
_OTHER_NUMBER = re.compile(
    r"\b(?:order|invoice|account|acct|ticket|tracking|case|ref(?:erence)?|serial|model|part|isbn|id|ssn|card|routing|"
    r"zip|code|transaction|port|pid|bytes?)\b",
    re.IGNORECASE,
)
_TRIES = 4
_MIN_DIGITS, _MAX_DIGITS = 7, 15


def phone_detector(region: str) -> Detector:
    """Numbers with a country code, and those written as in `region` (ISO 3166). All metadata is loaded here, once."""
    import phonenumbers

    phonenumbers.PhoneMetadata.load_all()
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
    return Detector("phone", _PHONE, partial(_phone, region=region, metadata=metadata), gate=MANY_DIGITS)


def _phone(match: re.Match[str], region: str, metadata: Any) -> Span | None:
    """The longest phone number that starts here and ends with one of the groups of digits."""
    text = match[0]
    if len(_digits(text)) < _MIN_DIGITS:
        return None
    other = preceded_by(match, _OTHER_NUMBER)
    told = not other and preceded_by(match, _TOLD)
    if not told and text[0] != "+" and (other or not _written_as_in(metadata, text)):
        return None
    for end in [end.start() for end in _GROUP_END.finditer(text)][-1 : -_TRIES - 1 : -1]:
        if _is_phone(text[:end], told, region):
            opened = text[0] == "(" and ")" not in text[:end]
            return match.start() + opened, match.start() + end
    return None


def _digits(text: str) -> str:
    return _NOT_DIGITS.sub("", text)


def _written_as_in(metadata: Any, text: str) -> bool:
    """The way numbers are written in that region: in the groups of North America, or with the trunk prefix."""
    if metadata is None:
        return False
    if metadata.country_code == 1:
        return _NORTH_AMERICAN.match(text) is not None
    return metadata.national_prefix != "0" or text.lstrip("(")[0] == "0"


def _is_phone(text: str, told: bool, region: str) -> bool:
    number = _EXTENSION.split(text, maxsplit=1)[0].strip()
    digits = _digits(number)
    if not _MIN_DIGITS <= len(digits) <= _MAX_DIGITS or _NOT_PHONE.fullmatch(number):
        return False
    if text[0] == "+":
        return _is_possible(digits)
    if told:
        return len(set(digits)) > 1
    return _FICTITIOUS.fullmatch(number) is not None or _is_valid(digits, region)


def _is_possible(digits: str) -> bool:
    import phonenumbers

    try:
        number = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE)


def _is_valid(digits: str, region: str) -> bool:
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(digits, region)))
    except phonenumbers.NumberParseException:
        return False
