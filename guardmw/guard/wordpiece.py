"""BERT's WordPiece (uncased), for the embedded guard.

Gives the same ids as `tokenizers.BertWordPieceTokenizer(lowercase=True)` without bringing that package and the hub
client it depends on into every installation. Source: Devlin et al., arXiv 1810.04805, and BERT's `tokenization.py`.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

__all__ = ["WordPiece"]

MAX_WORD_CHARS = 100
"""A longer word is one unknown piece."""
CACHED_WORDS = 16_384

_CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class _Cleaned(dict[int, str]):
    """Translation of one character before decomposition: controls and lone surrogates go, spaces become one kind,
    ideographs stand alone."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in "\t\n\r" or unicodedata.category(char)[0] == "Z":
            cleaned = " "
        elif code == 0xFFFD or unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs"):
            cleaned = ""
        else:
            cleaned = f" {char} " if any(first <= code <= last for first, last in _CJK) else char
        self[code] = cleaned
        return cleaned


class _Folded(dict[int, str]):
    """Translation after decomposition: accents go, letters become small, punctuation stands alone."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if category == "Mn":
            folded = ""
        elif category[0] == "P" or (code < 128 and char.isprintable() and not char.isalnum() and char != " "):
            folded = f" {char} "
        else:
            folded = char.lower()
        self[code] = folded
        return folded


_cleaned, _folded = _Cleaned(), _Folded()


class WordPiece:
    """Turns text into ids of a BERT `vocabulary` (one piece a line). Safe to share between threads.

    Raises KeyError when the vocabulary lacks one of ``[UNK] [CLS] [SEP] [PAD]``.
    """

    def __init__(self, vocabulary: str) -> None:
        lines = vocabulary.split("\n")
        self._ids = {piece.rstrip("\r"): index for index, piece in enumerate(lines) if piece}
        self.unknown, self.start, self.end, self.pad = (
            self._ids[name] for name in ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
        )
        self._word = lru_cache(maxsize=CACHED_WORDS)(self._split)

    def ids(self, text: str) -> list[int]:
        """The ids of `text`, without ``[CLS]`` and ``[SEP]``; lone surrogates are dropped like control characters."""
        if not text.isascii():
            text = unicodedata.normalize("NFD", text.translate(_cleaned))
            words = text.translate(_folded).split()
        else:
            words = text.translate(_cleaned).translate(_folded).split()
        return [piece for word in words for piece in self._word(word)]

    def __contains__(self, word: object) -> bool:
        """Whether `word`, in small letters, is one piece."""
        return word in self._ids

    def _split(self, word: str) -> tuple[int, ...]:
        if len(word) > MAX_WORD_CHARS:
            return (self.unknown,)
        pieces: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in self._ids), None)
            if end is None:
                return (self.unknown,)
            pieces.append(self._ids[prefix + word[start:end]])
            start = end
        return tuple(pieces)
