"""Text as a reader sees it, for detectors to look at: invisible characters gone, look-alikes made plain.

What is seen through: format characters (zero-width spaces and joiners, soft hyphens, direction marks, tags), other
control characters, combining marks, full-width and mathematical letters and digits, digits of other scripts, dashes and
spaces of all kinds, and Cyrillic and Greek letters that look Latin.

Every character is judged by itself and the few before it, so a text that grows never changes what was made of its
beginning.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass

INVISIBLE_RUN_CHARS = 8
"""So many invisible characters in a row are overlooked; each further one counts as a break, which keeps the wait of a
stream bounded."""

_CONFUSABLE = {
    **dict(zip("АВСЕНІЈКМОРЅТХУӀԚԜ", "ABCEHIJKMOPSTXYIQW", strict=True)),
    **dict(zip("асеһіјорԛѕхуԁԝӏһ", "acehijopqsxydwlh", strict=True)),  # noqa: RUF001
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),  # noqa: RUF001
    **dict(zip("αικνορυχϲϳ", "aikvopuxcj", strict=True)),
    **dict(zip("ıɡʟոսօ", "igluuo", strict=True)),
    **dict.fromkeys("‐‑‒–—―−⁃﹘", "-"),  # noqa: RUF001
    **dict.fromkeys("。｡․", "."),  # noqa: RUF001
    **dict.fromkeys("‘’‚‛′", "'"),  # noqa: RUF001
    **dict.fromkeys("“”„‟″", '"'),
    **dict.fromkeys("\u2028\u2029\x85", "\n"),
    "∶": ":",  # noqa: RUF001
    "⁄": "/",  # noqa: RUF001
    "∕": "/",  # noqa: RUF001
}
_BLANK = "\u115f\u1160\u3164\uffa0\u2800\u180e"
_KEPT_CONTROLS = "\t\n\r\x0b\x0c"
_PLAIN = re.compile(r"[\t-\r -~]*")
_BREAK = "\x00"


class _Table(dict[str, str]):
    """What each character becomes, worked out when it is first met: one character, several, or none (invisible)."""

    def __missing__(self, character: str) -> str:
        result = self[character] = _plain(character)
        return result


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if character in _KEPT_CONTROLS:
        return character
    if character in _BLANK or category in ("Cf", "Mn", "Me", "Cc"):
        return ""
    if category == "Zs":
        return " "
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    parts = [part for part in unicodedata.normalize("NFKD", character) if unicodedata.category(part) != "Mn"]
    letters = "".join(_CONFUSABLE.get(part, part) for part in parts)
    useful = letters.isascii() and (letters.isalnum() or len(letters) == 1)
    return letters if useful else _CONFUSABLE.get(character, character)


_TABLE = _Table()


@dataclass(frozen=True, slots=True)
class Normalized:
    """`text` is what detectors read; `places[i]` is where its i-th character stood (None: all stayed in place)."""

    text: str
    length: int
    places: list[int] | None = None

    def original(self, position: int) -> int:
        """Where the character at `position` stood; the length of the original text for the end."""
        if self.places is None:
            return position
        return self.places[position] if position < len(self.places) else self.length

    def original_end(self, end: int) -> int:
        """The end (exclusive) in the original of a part that ends at `end` here."""
        return end if self.places is None else self.places[end - 1] + 1

    def position(self, original: int) -> int:
        """The first character here that stood at `original` or after."""
        if self.places is None:
            return original
        return bisect_left(self.places, original)


def is_plain(text: str) -> bool:
    """True when `normalize` would change nothing."""
    return text.isascii() and _PLAIN.fullmatch(text) is not None


def normalize(text: str) -> Normalized:
    """`text` as a reader sees it, with the way back to the original positions."""
    if is_plain(text):
        return Normalized(text, len(text))
    table = _TABLE
    pieces = [table[character] for character in text]
    plain = "".join(pieces)
    if len(plain) == len(pieces) and "" not in pieces:
        return Normalized(plain, len(text))
    return _with_places(pieces)


def _with_places(pieces: list[str]) -> Normalized:
    letters: list[str] = []
    places: list[int] = []
    invisible = 0
    for place, piece in enumerate(pieces):
        invisible = 0 if piece else invisible + 1
        shown = _BREAK if invisible > INVISIBLE_RUN_CHARS else piece
        letters += shown
        places += [place] * len(shown)
    return Normalized("".join(letters), len(pieces), places)
