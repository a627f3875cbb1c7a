"""Beginnings of matches, derived from patterns."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardmw.policy.detector import Detector
from guardmw.policy.entities import pii_detectors
from guardmw.policy.partial import Unsupported, analyse
from guardmw.policy.schema import PiiDetector, PiiEntity, SecretEntity, SecretsDetector
from guardmw.policy.secrets import secret_detectors

DETECTORS = [
    *pii_detectors(PiiDetector(entities=get_args(PiiEntity))),
    *secret_detectors(SecretsDetector(entities=get_args(SecretEntity))),
]
NAMES = [f"{detector.entity}-{i}" for i, detector in enumerate(DETECTORS)]
PATTERNS = [
    r"ab+c",
    r"(?i)foo(?:bar|baz){2,3}[^x]",
    r"\bEMP-\d{6}\b",
    r"a(?=bc)b|d(?!ef)e?",
    r"(?<=x)y*?z$",
    r"(?s:.)\s\S(?-i:Q)",
    r"(?>ab|a)b++c",
]


def tail_matches(pattern: re.Pattern[str], text: str) -> bool:
    return re.compile(f"{analyse(pattern, 64).tail}\\Z").match(text) is not None


@pytest.mark.parametrize("source", PATTERNS)
@given(data=st.data())
def test_every_beginning_of_a_match_is_awaited(source: str, data: st.DataObject) -> None:
    pattern = re.compile(source)
    text = data.draw(st.text("abcdefxyzEMP-0123 Q\n", max_size=12) | st.from_regex(pattern))
    for match in pattern.finditer(text):
        if len(match[0]) > 64 or match.start():
            continue
        assert all(tail_matches(pattern, match[0][:size]) for size in range(len(match[0]) + 1))


@pytest.mark.parametrize("detector", DETECTORS, ids=NAMES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_what_saves_time_loses_nothing(detector: Detector, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(detector.pattern))
    match = detector.pattern.search(text)
    if match is None or len(match[0]) > detector.max_chars:
        return
    assert not detector.leads or match[0].lower().startswith(detector.leads)
    assert detector.gate is None or detector.gate.search(match[0]) or detector.validate(match) is None
    partial = detector.partial
    assert partial is not None
    assert re.compile(partial.loose).match(text, match.start())
    tail = re.compile(f"{partial.tail}\\Z")
    sizes = data.draw(st.sets(st.integers(0, len(match[0])), max_size=8))
    assert all(tail.search(text[: match.start() + size], match.start()) for size in sizes)
    if partial.alphabet is not None:
        assert set(match[0]) <= partial.alphabet


@pytest.mark.parametrize(
    ("source", "text", "awaited"),
    [
        (r"ab+c", "abb", True),
        (r"ab+c", "abbd", False),
        (r"ab(?!c)", "ab", True),
        (r"ab(?!cd)", "abc", True),
        (r"ab(?!cd)", "abx", False),
        (r"\d{3}$", "123", True),
        (r"\d{3}$", "123\n", True),
        (r"\d{3}$", "123x", False),
        (r"x{2,}", "x" * 60, True),
    ],
)
def test_tails(source: str, text: str, awaited: bool) -> None:
    assert tail_matches(re.compile(source), text) is awaited


@pytest.mark.parametrize("source", [r"(a)\1", r"(a)?(?(1)b|c)"])
def test_patterns_that_refer_back_are_refused(source: str) -> None:
    with pytest.raises(Unsupported):
        analyse(re.compile(source), 64)
    assert Detector("x", re.compile(source), max_chars=9).wait_chars == 9
