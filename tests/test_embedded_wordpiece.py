"""WordPiece gives what `tokenizers` gives."""

from __future__ import annotations

import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from guardmw.guard.embedded import bundled_weights
from guardmw.guard.wordpiece import WordPiece

VOCABULARY = bundled_weights() / "vocab.txt"
OURS = WordPiece(Path(VOCABULARY).read_text(encoding="utf-8"))
THEIRS = BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)


def theirs(text: str) -> list[int]:
    return list(THEIRS.encode(text, add_special_tokens=False).ids)


def settled(char: str) -> bool:
    """Whether both know the character alike: `tokenizers` reads the categories of Unicode 8, Python those of its own
    version, so that accents, punctuation and controls added since may differ."""
    return ours_of(char) == theirs(f"a{char}b")


def ours_of(char: str) -> list[int]:
    return OURS.ids(f"a{char}b")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]).filter(settled), max_size=60)
PIECES = (
    "Hello", "WORLD", "don't", "Zürich", "ÅNGSTRÖM", "\u03a3\u0391\u03a3", "İstanbul", "中文", "한국어", "नमस्ते",
    "👩‍👩‍👧",
    "e\u0301", "ﬁne", "a\u200bb", "a\u00adb", "\x00", "\x85", "\ufffd", "\u3000", "\u2028", "\t", "...", "¿que?",
    "x" * 101, "[SEP]y", "##ing",
)  # fmt: skip
PHRASES = st.lists(st.sampled_from(PIECES), max_size=30)


@given(TEXTS)
def test_any_text(text: str) -> None:
    assert OURS.ids(text) == theirs(text)


@given(PHRASES, st.sampled_from(["", " "]))
def test_any_phrase(words: list[str], between: str) -> None:
    # `tokenizers` cuts its special tokens out of the text first; to a guard, hostile text is text.
    text = between.join(words).replace("[SEP]", "[ SEP ]")
    assert OURS.ids(text) == theirs(text)


def test_every_character_but_those_added_to_unicode_lately() -> None:
    known = [
        char
        for char in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(char) not in ("Cn", "Co", "Cs") and not 0x4E00 <= ord(char) <= 0xD7A3
    ]
    batches = THEIRS.encode_batch([f"a{char}b" for char in known], add_special_tokens=False)
    different = [char for char, batch in zip(known, batches, strict=True) if ours_of(char) != batch.ids]
    assert len(known) > 40_000
    assert len(different) < 1200
    # Nothing of the scripts that the vocabulary knows.
    assert not [char for char in different if ord(char) < 0x600]


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\x00", "\ud800", "\udfff\ud800"])
def test_nothing_to_read(text: str) -> None:
    assert OURS.ids(text) == []


def test_a_lone_surrogate_is_dropped_and_the_rest_kept() -> None:
    assert OURS.ids("bo\ud800mb") == OURS.ids("bomb")


@pytest.mark.parametrize("unit", ["The quick brown fox. ", "x", ".", "中", "e\u0301", "\u200b", "word\n"])
def test_a_megabyte_takes_no_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    ids = OURS.ids(text)
    assert time.process_time() - started < 4
    assert len(ids) <= len(text) + 1


def test_a_vocabulary_without_the_special_pieces_is_refused() -> None:
    with pytest.raises(KeyError):
        WordPiece("a\nb\n")
