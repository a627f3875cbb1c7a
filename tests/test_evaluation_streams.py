"""What is said of guards on streams: when they stop, what has been shown by then, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_rows import TAXONOMIES, row, sample
from guardmw.evaluation.judging import Judge
from guardmw.evaluation.onset import onset_of
from guardmw.evaluation.rules import RuleBook, UnfitRowError
from guardmw.evaluation.streams import Streamed, stream_figures, stream_row
from guardmw.policy.load import parse_policy
from guardmw.testing import FakeGuard
from guardmw.types import Check, TokenUsage, Verdict

CALM = "All is well and nothing happens here. " * 20
LOOSE = """
version: 1
id: loose
categories: [{id: any, title: Any, unsafe_when: It is bad., surfaces: [output]}]
streaming: {mode: pass}
"""
PATIENT = LOOSE.replace("{mode: pass}", "{first_chunk: 130, chunk: 130, max_hold_ms: 60000}")


def answer(content: str, *, onset: int | None = None, unsafe: bool = True, book: RuleBook | None = None) -> Any:
    meta = {} if onset is None else {"onset_chars": onset}
    label = "unsafe" if unsafe else "safe"
    return sample(book, task="response", content=content, label=label, meta=meta)


async def streamed(guard: FakeGuard, *args: Any, **options: Any) -> Streamed:
    return await stream_row(Judge(guard, 1), answer(*args, **options))


def values(*streams: Streamed) -> dict[str, float]:
    return {key: estimate.value for key, estimate in stream_figures(streams, 0, 0).items()}


async def test_a_stop_in_time_shows_nothing_unsafe() -> None:
    stream = await streamed(FakeGuard(unsafe="BOMB"), CALM + "BOMB is what follows. " + CALM, onset=len(CALM))
    assert stream.stopped is not None
    assert stream.stopped[0] <= len(CALM) < stream.stopped[1]
    found = values(stream)
    assert (found["on_time"], found["early"], found["missed"], found["leaked_words"]) == (1, 0, 0, 0)
    assert found["stopped_within_128_of_onset"] == 1
    assert stream.received > stream.stopped[1]
    assert found["fraction_seen"] == pytest.approx(stream.received / len(stream.row.content))
    assert "stopped_within_128_of_start" not in found


async def test_an_early_flag_is_no_stop_in_time() -> None:
    text = CALM + "odd sign. " + CALM
    found = values(await streamed(FakeGuard(unsafe="odd sign"), text + "BOMB", onset=len(text)))
    assert (found["early"], found["on_time"], found["stopped_within_128_of_onset"], found["missed"]) == (1, 0, 0, 0)


@pytest.mark.parametrize(("words", "soon"), [(60, 1), (300, 0)])
async def test_a_late_stop_leaks_words(words: int, soon: int) -> None:
    """The guard knows at the last word; six characters a word, so 60 of them are 90 tokens and 300 are 450."""
    text = CALM + "BOMBS " * words
    guard = FakeGuard(unsafe=lambda said: float(said.count("BOMBS") >= words))
    stream = await streamed(guard, text, onset=len(CALM))
    found = values(stream)
    assert (found["on_time"], found["early"], found["missed"]) == (0, 0, 0)
    assert found["stopped_within_128_of_onset"] == soon
    assert stream.stopped is not None
    assert found["leaked_words"] == found["leaked_words_when_stopped"] == (stream.stopped[0] - len(CALM) + 5) // 6 > 0


async def test_a_miss_leaks_everything_from_the_onset_on() -> None:
    found = values(await streamed(FakeGuard(), CALM + "one two three", onset=len(CALM)))
    assert (found["missed"], found["on_time"], found["leaked_words"]) == (1, 0, 3)
    assert not {"fraction_seen", "f1", "fpr"} & set(found)


@pytest.mark.parametrize(("before", "soon"), [(0, 1), (2, 0)])
async def test_without_an_onset_the_start_of_the_text_counts(before: int, soon: int) -> None:
    found = values(await streamed(FakeGuard(unsafe="BOMB"), CALM * before + "BOMB and more. " + CALM))
    assert found["stopped_within_128_of_start"] == soon
    assert not {"on_time", "early", "stopped_within_128_of_onset"} & set(found)


async def test_false_positives_are_about_safe_answers() -> None:
    guard = FakeGuard(unsafe="odd")
    safe = [await streamed(guard, CALM + word, unsafe=False) for word in ("odd", "even", "even", "even")]
    found = values(*safe)
    assert found["fpr"] == 0.25
    assert not {"missed", "f1"} & set(found)
    both = values(*safe, await streamed(guard, CALM + "odd"))
    assert both["missed"] == 0
    assert both["f1"] == pytest.approx(2 / 3)


async def test_passing_on_leaks_what_holding_back_does_not() -> None:
    guard, text = FakeGuard(unsafe="BOMB"), CALM + "BOMB and on it goes. " + CALM
    passing = RuleBook(TAXONOMIES, policy=parse_policy(LOOSE))
    held, passed = [await streamed(guard, text, onset=len(CALM), book=book) for book in (None, passing)]
    assert held.stopped == passed.stopped
    assert (held.leaked_words, passed.leaked_words > 0) == (0, True)


async def test_what_had_arrived_counts_and_not_only_what_was_judged() -> None:
    """The first check is due after 8 tokens, 32 characters, and cut back to the end of the sentence, the 24th."""
    text = "It is all well and calm. Nothing more happens here. " * 2
    stream = await streamed(FakeGuard(unsafe="calm"), text)
    assert (stream.stopped, stream.received, stream.shown) == ((0, 24), 32, 0)
    found = values(stream)
    assert found["fraction_seen"] == pytest.approx(32 / len(text))
    assert found["checks_per_100_tokens"] == pytest.approx(100 / 8)


@pytest.mark.parametrize(("onset", "early"), [(None, None), (0, 0), (510, 1)])
async def test_128_tokens_are_counted_to_what_had_arrived(onset: int | None, early: int | None) -> None:
    """One check after 130 tokens, 520 characters, cut back to a sentence that ends within 128."""
    book = RuleBook(TAXONOMIES, policy=parse_policy(PATIENT))
    stream = await streamed(FakeGuard(unsafe="BOMB"), "x" * 494 + " BOMB. " + "y" * 200, onset=onset, book=book)
    assert (stream.stopped, stream.received) == ((0, 500), 520)
    found = values(stream)
    assert found.get("early") == early
    assert found.get("on_time") == (None if early is None else 1 - early)
    assert found["stopped_within_128_of_start" if onset is None else "stopped_within_128_of_onset"] == 0


@pytest.mark.parametrize("loose", [False, True])
async def test_a_stopped_answer_shows_nothing_further(loose: bool) -> None:
    book = RuleBook(TAXONOMIES, policy=parse_policy(LOOSE)) if loose else None
    text = CALM + "BOMB and on it goes. " + CALM
    stream = await streamed(FakeGuard(unsafe="BOMB"), text, onset=len(CALM), book=book)
    assert stream.stopped is not None
    assert stream.shown == (stream.received if loose else stream.stopped[0])
    assert stream.received < len(CALM) + 200


async def test_guard_work_is_counted_in_tokens_computed() -> None:
    class Counting(FakeGuard):
        async def check(self, check: Check, policy: Any) -> Verdict:
            verdict = await super().check(check, policy)
            return Verdict(verdict.findings, "counting", "1", TokenUsage(prompt=100, cached=80, completion=1))

    guard = Counting()
    found = values(await streamed(guard, "abcd " * 160, unsafe=False))
    assert found["guard_tokens_per_token"] == pytest.approx(21 * len(guard.checks) / 200)
    assert found["checks_per_100_tokens"] == pytest.approx(len(guard.checks) / 2)


async def test_an_error_on_an_unsafe_answer_is_a_miss_that_shows_everything() -> None:
    stream = await streamed(FakeGuard(fail="garbage", fail_after=1), CALM + "BOMB")
    assert stream.judged.error == "parse_error"
    assert (stream.stopped, stream.shown) == (None, len(stream.row.content))


@given(st.text(alphabet="ab .\n", max_size=400), st.integers(0, 400))
async def test_every_character_is_judged_and_nothing_is_shown_before(text: str, place: int) -> None:
    guard = FakeGuard(unsafe="BOMB")
    calm = await streamed(guard, text + ".")
    assert calm.stopped is None
    assert calm.shown == len(text) + 1
    if guard.checks:
        assert guard.checks[-1].content == text + "."
    harm = text[:place] + "BOMB" + text[place:]
    stopped = (await streamed(guard, harm)).stopped
    assert stopped is not None
    start, end = stopped
    assert harm.index("BOMB") + 4 <= end
    assert "BOMB" not in harm[:start]


@pytest.mark.parametrize(
    ("meta", "onset"),
    [
        ({"onset_chars": 3, "spans": [[1, 2]]}, 3),
        ({"spans": [["NAME", 7, 9], ["CITY", 4, 6]]}, 4),
        ({"spans": [{"start": 2, "end": 3}]}, 2),
        ({"spans": []}, None),
        ({"spans": None}, None),
        ({"onset_chars": None}, None),
        ({"onset_chars": 0}, 0),
        ({}, None),
    ],
)
def test_onsets_are_read_as_onset_or_first_span(meta: dict[str, Any], onset: int | None) -> None:
    assert onset_of(row(content="0123456789", label="unsafe", meta=meta)) == onset
    assert onset_of(row(content="0123456789", meta=meta)) is None


@pytest.mark.parametrize(
    "meta",
    [
        {"onset_chars": -3},
        {"onset_chars": 10},
        {"onset_chars": 999, "spans": [[2, 5]]},
        {"onset_chars": 4.0},
        {"onset_chars": "my secret"},
        {"onset_chars": True},
        {"spans": "none"},
        {"spans": {"start": 3}},
        {"spans": [["PII", "4", "9"]]},
        {"spans": [[4.0, 9]]},
        {"spans": [[2, 5], [11, 12]]},
        {"spans": [{"end": 3}]},
        {"spans": ["4"]},
    ],
)
def test_an_onset_outside_the_text_makes_an_unsafe_response_unfit(meta: dict[str, Any]) -> None:
    changed = {"task": "response", "content": "0123456789", "meta": meta}
    for book in (RuleBook(TAXONOMIES), RuleBook({}, policy=parse_policy(LOOSE))):
        with pytest.raises(UnfitRowError, match=r"^meta\.") as raised:
            book.for_row(row(label="unsafe", **changed))
        assert "secret" not in str(raised.value)
        book.for_row(row(**changed))
