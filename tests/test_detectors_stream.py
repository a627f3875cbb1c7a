"""A text in pieces gives what the whole text gives, at once and in linear time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_samples import ALL_PII, ALL_SECRETS, HARMLESS, NAMED_SECRETS, PII, SECRETS, full_width
from guardmw.policy.detectors import DetectorSet, Match, detectors_for
from guardmw.policy.schema import Detectors, PatternDetector, PiiDetector, Policy, SecretsDetector

CUSTOM = (
    PatternDetector(id="employee", pattern=r"\bEMP-\d{6}\b"),
    PatternDetector(id="between", pattern=r"foo.*bar", max_chars=40, action="flag"),
    PatternDetector(id="twice", pattern=r"(\w)\1\1", max_chars=3, action="flag"),
    PatternDetector(id="ahead", pattern=r"x(?=.*y)\w*", max_chars=12, action="flag"),
    PatternDetector(id="raw", pattern=r"größ\w*"),
)
EVERYTHING = Detectors(
    pii=PiiDetector(entities=ALL_PII, allow=("a_b+tag@mail.shop.co.uk",)),
    secrets=SecretsDetector(entities=ALL_SECRETS),
    patterns=CUSTOM,
)
SAMPLES = [
    *(value for values in [*PII.values(), *SECRETS.values()] for value in values),
    *(frame.format(value) for cases in NAMED_SECRETS.values() for frame, value in cases),
    *HARMLESS,
    "EMP-123456",
    "foo and foo bar bar",
    "größer",
]


SETS = [
    EVERYTHING,
    Detectors(secrets=SecretsDetector(entities=("password", "private_key", "api_key"))),
    Detectors(pii=PiiDetector()),
    Detectors(patterns=CUSTOM),
]


def all_detectors(chosen: Detectors = EVERYTHING) -> DetectorSet:
    return detectors_for(Policy(id="test", detectors=chosen), "output")


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A sample, perhaps cut short, broken by a character, or written in other characters."""
    sample = draw(st.sampled_from(SAMPLES))
    place = draw(st.integers(0, len(sample)))
    change = draw(st.sampled_from(["none", "none", "cut", "break", "hide", "widen", "double"]))
    match change:
        case "cut":
            return sample[:place]
        case "break":
            return sample[:place] + draw(st.sampled_from("x0 -.@:\n\x00é")) + sample[place:]
        case "hide":
            return sample[:place] + "\u200b" * draw(st.integers(1, 12)) + sample[place:]
        case "widen":
            return sample[:place] + full_width(sample[place:])
        case "double":
            return sample[:place] + sample
    return sample


FILLER = st.sampled_from(["", " ", ", ", "\n", ":", "-", "=", '"', "a", "7", " password ", " card ", "ﬁ", "½", "и"])
NOISE = st.text(st.characters(exclude_categories=[]), max_size=6)
TEXTS = st.lists(st.one_of(disguised(), FILLER, NOISE), min_size=1, max_size=7).map("".join)


def in_pieces(detectors: DetectorSet, text: str, cuts: list[int]) -> list[Match]:
    matches: list[Match] = []
    settled = 0
    for cut in [*cuts, len(text)]:
        scan = detectors.scan(text[:cut], settled, final=False)
        assert settled <= scan.settled <= cut
        assert all(settled <= match.start < match.end <= scan.settled for match in scan.matches)
        matches += scan.matches
        settled = scan.settled
    return [*matches, *detectors.scan(text, settled).matches]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_cut_gives_the_same_matches(data: st.DataObject) -> None:
    text = data.draw(TEXTS)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    detectors = all_detectors(data.draw(st.sampled_from(SETS)))
    whole = detectors.scan(text)
    assert whole.settled == len(text)
    assert all(first.end <= second.start for first, second in pairwise(whole.matches))
    assert in_pieces(detectors, text, cuts) == list(whole.matches)


def test_context_is_read_through_invisible_characters() -> None:
    text = "ssn" + (" " + "\u200b" * 8) * 20 + "987654321."
    for cut in range(len(text)):
        assert in_pieces(all_detectors(), text, [cut]) == list(all_detectors().scan(text).matches) != []


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_character_by_character_gives_the_same_matches(text: str) -> None:
    text = text[:400]
    assert in_pieces(all_detectors(), text, list(range(len(text)))) == list(all_detectors().scan(text).matches)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SETS),
    st.sampled_from(SAMPLES),
    st.text("abcdefghij ", max_size=30),
    st.text(" .,abc", min_size=1, max_size=8),
)
def test_nothing_of_a_match_is_settled_before_it_is_reported(
    chosen: Detectors, sample: str, before: str, after: str
) -> None:
    text = f"{before} {sample} {after}"
    detectors = all_detectors(chosen)
    matches = detectors.scan(text).matches
    for size in range(len(text)):
        settled = detectors.scan(text[:size], final=False).settled
        assert all(match.end <= settled or settled <= match.start for match in matches)


PROSE = (
    "Call me at noon, and don't forget: the meeting in 2023 took 3 hours. Pass me the key (the red one), "
    "or a token of respect; 40% of the people said so - see page 12. The secret was out, everyone accessed it. "
)


def ordinary() -> DetectorSet:
    return detectors_for(Policy(id="test", detectors=Detectors(pii=PiiDetector(), secrets=SecretsDetector())), "output")


def test_prose_hardly_waits() -> None:
    waits = [size - ordinary().scan(PROSE[:size], final=False).settled for size in range(1, len(PROSE))]
    assert max(waits) <= 24
    assert sum(waits) / len(waits) <= 5
    assert ordinary().scan("call me at noon, ", final=False).settled == len("call me at noon, ")


@pytest.mark.parametrize("start", ["", "password: ", "-----BEGIN PRIVATE KEY-----\n", "eyJ", "sk-", "x://y:", "\u200b"])
@pytest.mark.parametrize("filler", ["a", "A1", "1", "1 ", "-", "@", ".", "\u200b", "a\u200b", "AB12 ", "\n", "é"])
def test_no_text_waits_forever(start: str, filler: str) -> None:
    text = start + filler * (12_000 // len(filler))
    assert len(text) - all_detectors().scan(text, final=False).settled <= 9 * 1024


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "-", "@", ".", " ", "é", "\u200b", "sk-", "eyJ", "a.", "://", "1 ", "12 34 ", "4444 ", "AB12 ", "(415) ",
     "+1 ", "password: ", "token: ", "-----BEGIN PRIVATE KEY-----\n", "a@b.c", "key=", "0x", "A1:"],
)  # fmt: skip
def test_no_text_takes_for_ever(piece: str) -> None:
    """A quarter of a megabyte; quadratic work would take minutes and meet the test's time limit. Figures are the
    benchmark's."""
    text = piece * (250_000 // len(piece))
    assert ordinary().scan(text).settled == len(text)


def test_small_deltas_scan_only_what_is_new() -> None:
    """Four thousand deltas; scanning the whole text each time would take minutes and meet the test's time limit."""
    text, settled = PROSE * (200_000 // len(PROSE)), 0
    for cut in range(50, len(text), 50):
        settled = ordinary().scan(text[:cut], settled, final=False).settled
    assert len(text) - settled < 200
