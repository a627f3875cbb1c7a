"""Seeing through tricks with characters, and finding the way back to the original text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_samples import everything, found, full_width
from guardmw.policy.normalize import INVISIBLE_RUN_CHARS, normalize

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)


@pytest.mark.parametrize(
    ("disguised", "entity"),
    [
        ("jo\u200bhn@exa\u00admple.com", "email"),
        ("john\u2060@example\u200d.com", "email"),
        (full_width("john@example.com"), "email"),
        ("jоhn@еxample.cоm", "email"),  # noqa: RUF001  Cyrillic letters
        ("j\u0301o\u0308hn@example.com", "email"),
        ("john@example。com", "email"),
        ("j\x00ohn@example.com", "email"),
        ("4111\u00a01111\u20091111\u202f1111", "credit_card"),
        ("4111‑1111‑1111‑1111", "credit_card"),  # noqa: RUF001  non-breaking hyphens
        ("٤١١١ ١١١١ ١١١١ ١١١١", "credit_card"),  # noqa: RUF001
        ("𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏", "credit_card"),  # noqa: RUF001
        ("4\ufe0f\u20e31\ufe0f\u20e3" + "1" * 14, "credit_card"),
        ("536–90–4399", "us_ssn"),  # noqa: RUF001
        ("АKIAIOSFODNN7EXAMPLE", "cloud_key"),  # noqa: RUF001
    ],
)
def test_sees_through(disguised: str, entity: str) -> None:
    text = f"so: {disguised} é"
    assert found(text) == [(entity, disguised)]


def test_many_invisible_characters_are_a_break() -> None:
    few, many = "\u200b" * INVISIBLE_RUN_CHARS, "\u200b" * (INVISIBLE_RUN_CHARS + 1)
    assert found(f"john{few}@example.com")
    assert not found(f"john{many}@example.com")


def test_any_script_stays_as_it_is() -> None:
    for text in ("你好,世界", "한국어 텍스트", "日本語テキスト"):
        assert normalize(text).text == text


@given(ANY_TEXT)
def test_positions_lead_back(text: str) -> None:
    normalized = normalize(text)
    places = [normalized.original(i) for i in range(len(normalized.text) + 1)]
    assert places == sorted(places)
    assert places[-1] == len(text)
    for i, place in enumerate(places[:-1]):
        assert place < normalized.original_end(i + 1) <= len(text)
        assert normalized.position(place) <= i


@given(ANY_TEXT, ANY_TEXT)
def test_what_follows_changes_nothing_before(first: str, second: str) -> None:
    assert normalize(first + second).text.startswith(normalize(first).text)


@given(ANY_TEXT)
def test_nothing_crashes(text: str) -> None:
    scan = everything().scan(text)
    assert scan.settled == len(text)
