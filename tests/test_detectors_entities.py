"""What each detector finds, and what it must leave alone."""

from __future__ import annotations

import pytest

from detector_samples import (
    ALL_PII,
    ALL_SECRETS,
    HARMLESS,
    NAMED_SECRETS,
    PII,
    SECRETS,
    detectors,
    found,
)
from guardmw.policy.detectors import Match, detectors_for, redactions
from guardmw.policy.schema import Detectors, PatternDetector, PiiDetector, Policy, SecretsDetector
from guardmw.types import apply_redactions


@pytest.mark.parametrize(("entity", "value"), [(entity, value) for entity, values in PII.items() for value in values])
@pytest.mark.parametrize("frame", ["{}", "it is {}, I think", "({})", "see: {}.", "\n{}\n"])
def test_finds_personal_data(entity: str, value: str, frame: str) -> None:
    assert found(frame.format(value)) == [(entity, value)]


@pytest.mark.parametrize(
    ("entity", "value"), [(entity, value) for entity, values in SECRETS.items() for value in values]
)
@pytest.mark.parametrize("frame", ["{}", "it is {} I think", '"{}"', "\n{}\n"])
def test_finds_secrets(entity: str, value: str, frame: str) -> None:
    assert found(frame.format(value)) == [(entity, value)]


@pytest.mark.parametrize(
    ("entity", "frame", "value"),
    [(entity, frame, value) for entity, cases in NAMED_SECRETS.items() for frame, value in cases],
)
def test_finds_secrets_by_their_names(entity: str, frame: str, value: str) -> None:
    assert found(frame.format(value)) == [(entity, value)]


def test_every_entity_has_samples() -> None:
    assert set(PII) == set(ALL_PII)
    assert {*SECRETS, *NAMED_SECRETS, "high_entropy"} == set(ALL_SECRETS)


@pytest.mark.parametrize("text", HARMLESS)
def test_leaves_look_alikes_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card 4111 1111 1111 1111 123", "4111 1111 1111 1111"),
        ("card number 4716 9876 2234 1561", "4716 9876 2234 1561"),
        ("12 4111111111111111", "4111111111111111"),
        ("IBAN GB29 NWBK 6016 1331 9268 19 AND MORE", "GB29 NWBK 6016 1331 9268 19"),
        ("my SSN: 987654321", "987654321"),
        ("call 555-0199 now", "555-0199"),
        ("aadhaar 9876 5432 1012", "9876 5432 1012"),
        ("CPF 11144477735", "11144477735"),
    ],
)
def test_context_and_neighbours(text: str, expected: str) -> None:
    assert [value for _, value in found(text)] == [expected]


def test_phone_region() -> None:
    german = detectors(pii=PiiDetector(entities=("phone",), phone_region="DE"))
    assert found("ruf 030 23125 000 an", german) == [("phone", "030 23125 000")]
    assert found("ruf 030 23125 000 an", detectors(pii=PiiDetector(entities=("phone",)))) == []


def test_high_entropy_only_when_asked_for() -> None:
    text = "x kQ9zT2mVb7Lw4XnR8pYcJ5hGd3Fs6Aq1 y"
    assert found(text) == []
    assert found(text, detectors(secrets=SecretsDetector(entities=("high_entropy",)))) == [("high_entropy", text[2:-2])]


def test_key_block_without_end_is_found_to_its_last_line() -> None:
    body = SECRETS["private_key"][0].split("\nq0Zt")[0]
    assert found(body + "\n\nThat was the key.") == [("private_key", body)]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("label", "mail [EMAIL] card [CREDIT_CARD]"),
        ("mask", "mail j***@***.com card **** **** **** 1111"),
    ],
)
def test_redaction_styles(style: str, expected: str) -> None:
    text = "mail jo@x.com card 4111 1111 1111 1111"
    chosen = detectors(pii={"style": style})
    assert apply_redactions(text, redactions(chosen.scan(text).matches)) == expected


def test_hash_style_is_equal_for_equal_values_only() -> None:
    chosen = detectors(pii={"style": "hash"})
    first, same, other = (match.replacement for match in chosen.scan("a@x.com, A@X.com, b@x.com").matches)
    assert first == same != other
    assert first.startswith("[EMAIL:")
    assert len(first) == len("[EMAIL:123456]")


def test_only_redact_makes_redactions() -> None:
    matches = detectors(pii=PiiDetector(), secrets=SecretsDetector()).scan("a@x.com password: hunter2").matches
    assert [match.action for match in matches] == ["redact", "block"]
    assert [redaction.span for redaction in redactions(matches)] == [(0, 7)]


def test_allowed_values_are_never_reported() -> None:
    chosen = detectors(pii=PiiDetector(allow=("Support@Shop.Example",)))
    assert found("support@shop.example or me@shop.example", chosen) == [("email", "me@shop.example")]


def test_surfaces() -> None:
    policy = Policy(id="test", detectors=Detectors(pii=PiiDetector(surfaces=("input",))))
    assert detectors_for(policy, "input")
    assert not detectors_for(policy, "output")
    assert detectors_for(policy, "output").scan("a@x.com", final=False).settled == 7
    assert detectors_for(policy, "input") is detectors_for(policy.model_copy(), "input")


def test_of_overlapping_matches_the_more_severe_wins_then_the_longer() -> None:
    flag = PatternDetector(id="word", pattern=r"hunter2 and more", action="flag")
    chosen = detectors(secrets=SecretsDetector(), patterns=(flag,))
    assert found("password: hunter2 and more", chosen) == [("password", "hunter2")]
    long = PatternDetector(id="long", pattern=r"abc\d+", action="redact")
    short = PatternDetector(id="short", pattern=r"abc", action="redact")
    assert found("abc123", detectors(patterns=(short, long))) == [("long", "abc123")]
    same = PatternDetector(id="same", pattern=r"abc", action="redact")
    assert found("abc", detectors(patterns=(short, same))) == [("short", "abc")]


def test_custom_patterns() -> None:
    employee = PatternDetector(id="employee", pattern=r"\bEMP-\d{6}\b", action="redact")
    chosen = detectors(patterns=(employee,))
    match = chosen.scan("ask EMP-123456!").matches[0]
    assert match == Match("employee", "patterns", 4, 14, "redact", "[EMPLOYEE]")
    assert match.source == "detector:patterns.employee"
    assert not chosen.scan("TEMP-123456 EMP-1234567").matches


def test_custom_matches_are_cut_at_max_chars() -> None:
    chosen = detectors(patterns=(PatternDetector(id="run", pattern="x+", max_chars=8),))
    assert [value for _, value in found("x" * 20, chosen)] == ["x" * 8, "x" * 8, "x" * 4]


def test_custom_patterns_beyond_ascii_read_the_text_as_it_is() -> None:
    chosen = detectors(patterns=(PatternDetector(id="word", pattern="пароль|größe"),))
    assert found("мой пароль, größe, grosse", chosen) == [("word", "пароль"), ("word", "größe")]
