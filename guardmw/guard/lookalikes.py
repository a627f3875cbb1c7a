"""Letters that only look Latin, read as the Latin ones: what a person reads is what the guard reads."""

from __future__ import annotations

import unicodedata

__all__ = ["as_read", "visible"]

# Cyrillic, then Greek; from Unicode's confusables (UTS 39), the letters that can't be told from Latin ones.
_LATIN = str.maketrans(
    "аеорсухіјѕԁһӏԛԝАВЕКМНОРСТУХІЈЅԌ" + "αορνικτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",  # noqa: RUF001
    "aeopcyxijsdhlqwABEKMHOPCTYXIJSG" + "aopviktuxABEZHIKMNOPTYX",
)


def as_read(text: str) -> str:
    """`text` with compatibility forms (full width, mathematical, circled …) as plain letters, and, where most letters
    are Latin, with their Cyrillic and Greek doubles as Latin ones."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    folded = plain.translate(_LATIN)
    latin = sum(map(str.isascii, filter(str.isalpha, plain)))
    doubles = sum(before != after for before, after in zip(plain, folded, strict=True))
    return folded if latin > doubles else plain


def visible(text: str) -> str:
    """`text` as it is read, without characters that can't be seen."""
    if text.isascii():
        return text
    return "".join(char for char in as_read(text) if unicodedata.category(char) != "Cf")
