"""The window alone: a state machine over pushes, chunks, verdicts and releases, in any order."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from guardmw.policy.detectors import detectors_for
from guardmw.policy.schema import Policy, Streaming
from guardmw.stream.window import MAX_CHUNK_CHARS, Chunk, ReleaseMode, Segment, StreamWindow
from guardmw.types import Redaction

PLAIN = Policy(id="plain")
PII = Policy.model_validate({"id": "pii", "detectors": {"pii": {"entities": ["email", "credit_card"]}}})
WORDS = st.text(st.sampled_from("ab .,\n\t\u00e9\U0001f600\u200b"), max_size=40)
PIECES = st.one_of(
    WORDS, st.sampled_from(["me@example.com", "me@exam", "ple.com ", "4111 1111 ", "1111 1111", "@", "4"])
)


def window(
    policy: Policy = PLAIN, mode: ReleaseMode = "hold", first_chunk: int = 2, chunk: int = 8, max_hold_ms: int = 400
) -> StreamWindow:
    streaming = Streaming(first_chunk=first_chunk, chunk=chunk, max_hold_ms=max_hold_ms)
    return StreamWindow(streaming, detectors_for(policy, "output"), mode)


def shown(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


class WindowMachine(RuleBasedStateMachine):
    """Pushes, takes chunks, clears or forgets them (as a superseded check does), and releases at any moment."""

    policy = PLAIN
    mode: ReleaseMode = "hold"

    def __init__(self) -> None:
        super().__init__()
        self.window = window(self.policy, self.mode)
        self.sent = ""
        self.shown: list[Segment] = []
        self.cleared_to = 0
        self.now_s = 0.0
        self.chunk: Chunk | None = None

    @rule(text=PIECES, wait_ms=st.integers(0, 600))
    def push(self, text: str, wait_ms: int) -> None:
        self.now_s += wait_ms / 1000
        if text:
            self.window.push(text, self.now_s)
            self.sent += text

    @rule(flush=st.booleans())
    def take(self, flush: bool) -> None:
        chunk = self.window.next_chunk(flush=flush)
        assert (chunk is not None) == (self.window.received > self.cleared_to) or not flush
        if chunk is not None:
            assert chunk.text == self.sent[: chunk.end]
            assert chunk.start == self.cleared_to < chunk.end <= chunk.start + MAX_CHUNK_CHARS
            assert all(chunk.start <= match.start < match.end <= chunk.end for match in chunk.matches)
        self.chunk = chunk

    @precondition(lambda self: self.chunk is not None)
    @rule()
    def clear(self) -> None:
        assert self.chunk is not None
        redactions = [Redaction((match.start, match.end), match.replacement) for match in self.chunk.matches]
        self.window.clear(self.chunk, redactions)
        self.cleared_to = self.chunk.end
        self.chunk = None

    @rule(part=st.floats(0, 1))
    def release(self, part: float) -> None:
        self.shown += self.window.release(round(part * len(self.sent)))

    @invariant()
    def positions_are_in_order(self) -> None:
        assert self.window.received == len(self.sent)
        assert self.window.received >= self.window.settled >= 0
        assert self.window.received >= self.window.checked == self.cleared_to
        if self.mode == "hold":
            assert self.window.released <= self.window.checked <= self.window.settled

    @invariant()
    def segments_are_contiguous(self) -> None:
        position = 0
        for segment in self.shown:
            assert segment.start == position < segment.end
            position = segment.end
        assert position == self.window.released

    @invariant()
    def text_is_the_source_or_redacted(self) -> None:
        for segment in self.shown:
            assert segment.text == self.sent[segment.start : segment.end] or segment.text.startswith("[")
            assert self.policy is PII or "[" not in segment.text

    def teardown(self) -> None:
        while (chunk := self.window.next_chunk(flush=True)) is not None:
            self.chunk = chunk
            self.clear()
        self.shown += self.window.release(len(self.sent))
        assert self.window.released == len(self.sent)
        if self.policy is PLAIN or self.mode == "shadow":
            assert shown(self.shown) == self.sent


class PiiMachine(WindowMachine):
    policy = PII


class PassMachine(WindowMachine):
    policy = PII
    mode: ReleaseMode = "pass"


class ShadowMachine(WindowMachine):
    policy = PII
    mode: ReleaseMode = "shadow"


TestHold = WindowMachine.TestCase
TestHoldWithDetectors = PiiMachine.TestCase
TestPass = PassMachine.TestCase
TestShadow = ShadowMachine.TestCase


@given(st.lists(WORDS.filter(bool), min_size=1), st.integers(1, 8))
def test_chunks_cover_everything_once(deltas: list[str], chunk: int) -> None:
    subject = window(first_chunk=1, chunk=chunk)
    covered = ""
    for position, delta in enumerate(deltas):
        subject.push(delta, 0.0)
        while (due := subject.next_chunk(flush=position == len(deltas) - 1)) is not None:
            covered += due.text[due.start :]
            subject.clear(due)
    assert covered == "".join(deltas)


def test_the_first_chunk_is_small_and_later_ones_grow() -> None:
    subject = window(first_chunk=2, chunk=8)
    sizes = []
    for index in range(200):
        subject.push("a", index / 1000)
        if subject.due(index / 1000):
            chunk = subject.next_chunk()
            assert chunk is not None
            subject.clear(chunk)
            sizes.append(chunk.end - chunk.start)
    assert sizes[:4] == [8, 16, 32, 32]


def test_a_chunk_ends_at_a_sentence_or_else_at_a_word() -> None:
    subject = window()
    subject.push("One sentence is over. And the next one is no", 0.0)
    chunk = subject.next_chunk()
    assert chunk is not None
    assert chunk.text == "One sentence is over. And the next one is"
    subject = window()
    subject.push("It is only now over. And", 0.0)
    chunk = subject.next_chunk()
    assert chunk is not None
    assert chunk.text == "It is only now over."


def test_text_that_waited_long_enough_is_due() -> None:
    subject = window(first_chunk=100, chunk=100, max_hold_ms=400)
    subject.push("hi", 1.0)
    assert not subject.due(1.399)
    assert subject.due_at_s() == pytest.approx(1.4)
    assert subject.due(1.4)


def test_text_that_may_become_a_match_is_not_asked_for_again_until_more_comes() -> None:
    subject = window(PII, first_chunk=1)
    subject.push("me@exam", 0.0)
    assert subject.due(10.0)
    assert subject.next_chunk() is None
    assert not subject.due(10.0)
    assert subject.due_at_s() is None
    subject.push("ple.com, ", 10.0)
    assert subject.due(10.5)


def test_a_superseded_chunk_keeps_its_matches() -> None:
    subject = window(PII)
    subject.push("write to me@example.com now, ", 0.0)
    first = subject.next_chunk()
    subject.push("or never", 0.0)
    second = subject.next_chunk(flush=True)
    assert first is not None
    assert second is not None
    assert [match.entity for match in first.matches] == [match.entity for match in second.matches] == ["email"]


def test_a_megabyte_becomes_many_chunks() -> None:
    subject = window()
    subject.push("x" * 1_000_000, 0.0)
    sizes = []
    while (chunk := subject.next_chunk(flush=True)) is not None:
        subject.clear(chunk)
        sizes.append(chunk.end - chunk.start)
    assert max(sizes) == MAX_CHUNK_CHARS
    assert sum(sizes) == 1_000_000
