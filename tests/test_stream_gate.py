"""The gate's promises, I1 to I8, under any chunking, timing, failure and cancellation.

Time is virtual: a deadline of seconds costs nothing, and every run is exactly repeatable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import virtual_time
from guardmw import Checker, Decision, Policy
from guardmw.stream.gate import Blocked, Item, Opaque, Released, Text, guard_stream
from guardmw.testing import FakeGuard

MARKER = "FORBIDDEN"
EMAIL = "jane.doe@example.com"
CARD = "4111 1111 1111 1111"
DEADLINE_S = 2.0

Failure = Literal["error", "hang", "garbage"]


def policy(
    mode: Literal["hold", "pass", "shadow"] = "hold", *, on_error: str = "block", detectors: bool = False, **keys: Any
) -> Policy:
    return Policy.model_validate(
        {
            "id": "test",
            "mode": "shadow" if mode == "shadow" else "enforce",
            "categories": [{"id": "harm", "title": "Harm", "unsafe_when": "It harms."}],
            "detectors": {"pii": {"entities": ["email", "credit_card"]}} if detectors else {},
            "streaming": {"mode": "pass" if mode == "pass" else "hold", "first_chunk": 2, "chunk": 8},
            "on_guard_error": {"output": on_error, "reasoning": on_error},
            "limits": {"deadline_ms": 1000 * DEADLINE_S},
            **keys,
        }
    )


@dataclass
class Source:
    """Deltas with pauses before them; knows whether and when it was closed."""

    deltas: Sequence[tuple[Text | Opaque, float]]
    fails: bool = False
    closed_at_s: float | None = None
    given: int = 0

    async def stream(self) -> AsyncGenerator[Text | Opaque, None]:
        try:
            for delta, pause_s in self.deltas:
                await asyncio.sleep(pause_s)
                self.given += 1
                yield delta
            if self.fails:
                raise ConnectionError("the provider hung up")
        finally:
            self.closed_at_s = asyncio.get_running_loop().time()

    def text(self, surface: str = "output") -> str:
        return "".join(delta.text for delta, _ in self.deltas if isinstance(delta, Text) and delta.surface == surface)


@dataclass
class Seen:
    """What the consumer saw, and what had been decided by then."""

    items: list[Item] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    error: Exception | None = None
    blocked_at_s: float | None = None
    ended_at_s: float = 0.0

    def record(self, decision: Decision) -> None:
        self.decisions.append(decision)
        if decision.withheld:
            self.blocked_at_s = asyncio.get_running_loop().time()

    def text(self, surface: str = "output") -> str:
        return "".join(item.text for item in self.items if isinstance(item, Released) and item.surface == surface)

    @property
    def blocked(self) -> Blocked | None:
        last = self.items[-1] if self.items else None
        return last if isinstance(last, Blocked) else None

    def cleared(self, surface: str) -> int:
        """How far an allowing verdict reaches."""
        ends = [
            len(decision.check.content)
            for decision in self.decisions
            if decision.check.surface == surface and not decision.withheld
        ]
        return max(ends, default=0)


async def consume(
    source: Source, guard: FakeGuard, rules: Policy, *, pause_s: float = 0.0, seen: Seen | None = None
) -> Seen:
    seen = Seen() if seen is None else seen
    checker = Checker(rules, guard=guard, recorder=seen)
    try:
        async for item in guard_stream(source.stream(), checker, rules, agent="a"):
            if isinstance(item, Released) and rules.streaming.mode == "hold" and rules.mode == "enforce":
                assert item.end <= seen.cleared(item.surface), "I1: shown without an allowing verdict"
            assert seen.blocked is None, "I5: something came after the block"
            seen.items.append(item)
            await asyncio.sleep(pause_s)
    except ConnectionError as error:
        seen.error = error
    seen.ended_at_s = asyncio.get_running_loop().time()
    return seen


def run(source: Source, guard: FakeGuard, rules: Policy, **options: Any) -> Seen:
    seen, _ = virtual_time.run(consume(source, guard, rules, **options))
    assert seen is not None
    return seen


PAUSES_S = st.sampled_from([0.0, 0.001, 0.01, 0.5])
SURFACES = st.sampled_from(["output", "output", "output", "reasoning"])
WORDS = st.text(st.sampled_from("abc .,\n\u00e9\U0001f600"), max_size=30)
TEXTS = st.builds(Text, SURFACES, WORDS)
OPAQUES = st.builds(Opaque, st.integers())
LATENCIES_S = st.sampled_from([0.0, 0.005, 0.1, 1.0])


@st.composite
def sources(draw: st.DrawFn, *, forbidden: bool = False) -> Source:
    """Deltas of both surfaces and things that are no text; the marker, if any, is split anywhere in the output."""
    deltas: list[Text | Opaque] = draw(st.lists(st.one_of(TEXTS, TEXTS, OPAQUES), max_size=25))
    if forbidden:
        cut = draw(st.integers(0, len(MARKER)))
        place = draw(st.integers(0, len(deltas)))
        deltas[place:place] = [Text("output", MARKER[:cut]), Text("output", MARKER[cut:])]
    return Source([(delta, draw(PAUSES_S)) for delta in deltas], fails=draw(st.booleans()))


@given(sources(), LATENCIES_S, PAUSES_S, st.sampled_from(["hold", "pass", "shadow"]))
def test_clean_text_comes_out_as_it_went_in_and_all_of_it_is_judged(
    source: Source, latency_s: float, pause_s: float, mode: Literal["hold", "pass", "shadow"]
) -> None:
    """I2, I3: byte for byte, in order across surfaces, the tail too."""
    seen = run(source, FakeGuard(MARKER, latency_s=latency_s), policy(mode), pause_s=pause_s)
    for surface in ("output", "reasoning"):
        assert seen.text(surface) == source.text(surface)
        judged = [d.check.content for d in seen.decisions if d.check.surface == surface]
        assert max(judged, key=len, default="") == source.text(surface)
    assert isinstance(seen.error, ConnectionError) == source.fails
    assert _order(seen.items) == _order([delta for delta, _ in source.deltas])


def _order(items: list[Any]) -> list[Any]:
    """The sequence of surfaces and payloads, pieces of one surface in a row made one."""
    order: list[Any] = []
    for item in items:
        mark = ("opaque", item.payload) if isinstance(item, Opaque) else (item.surface, None)
        empty = isinstance(item, Text | Released) and not item.text
        if not empty and (isinstance(item, Opaque) or not order or order[-1] != mark):
            order.append(mark)
    return order


@given(sources(forbidden=True), LATENCIES_S, PAUSES_S)
def test_nothing_forbidden_is_shown_and_the_source_is_closed(source: Source, latency_s: float, pause_s: float) -> None:
    """I1, I5: in hold mode the marker never appears, nothing follows the block, upstream is closed at once."""
    seen = run(source, FakeGuard(MARKER, latency_s=latency_s), policy(), pause_s=pause_s)
    assert seen.blocked is not None
    assert seen.blocked.decision.action == "block"
    assert seen.blocked.message == policy().messages.blocked
    assert source.text().startswith(seen.text())
    assert MARKER not in seen.text()
    assert source.closed_at_s is not None
    assert seen.blocked_at_s is not None
    assert source.closed_at_s <= seen.blocked_at_s


@given(sources(forbidden=True), LATENCIES_S)
def test_shadow_never_changes_the_stream_but_decides(source: Source, latency_s: float) -> None:
    """I8: in shadow mode."""
    seen = run(source, FakeGuard(MARKER, latency_s=latency_s), policy("shadow"))
    assert seen.blocked is None
    assert seen.text() == source.text()
    assert "block" in [decision.action for decision in seen.decisions]
    assert {decision.enforced for decision in seen.decisions} == {"allow"}


@given(sources(forbidden=True), LATENCIES_S)
def test_pass_mode_cuts_after_the_verdict(source: Source, latency_s: float) -> None:
    """I8: in pass mode text is shown at once, and cut as soon as a verdict says so."""
    seen = run(source, FakeGuard(MARKER, latency_s=latency_s), policy("pass"))
    assert seen.blocked is not None
    assert source.text().startswith(seen.text())
    assert source.closed_at_s is not None


@given(sources(), st.sampled_from(["error", "hang", "garbage"]), st.integers(0, 3), st.sampled_from(["block", "allow"]))
def test_a_failing_guard_means_what_the_policy_says(
    source: Source, fail: Failure, fail_after: int, on_error: str
) -> None:
    """I7: within the deadline, and never "safe" by accident."""
    guard = FakeGuard(MARKER, fail=fail, fail_after=fail_after)
    seen = run(source, guard, policy(on_error=on_error))
    failed = [decision for decision in seen.decisions if decision.verdict.error]
    if on_error == "allow":
        assert seen.blocked is None
        assert seen.text() == source.text()
    elif failed:
        assert seen.blocked is not None
        assert seen.blocked.message == policy().messages.unavailable
        assert seen.blocked_at_s is not None
        longest_s = sum(pause_s for _, pause_s in source.deltas) + DEADLINE_S
        assert seen.blocked_at_s <= longest_s + 1e-6
    else:
        assert len(guard.checks) <= fail_after


@given(
    st.lists(st.sampled_from([EMAIL, CARD, "see ", "\n", "and so on. ", "a@", "41"]), min_size=1, max_size=6),
    st.integers(1, 7),
    LATENCIES_S,
    st.sampled_from(["hold", "pass"]),
)
def test_a_pattern_never_appears_however_it_was_split(
    parts: list[str], size: int, latency_s: float, mode: Literal["hold", "pass"]
) -> None:
    """I4: what detectors find in the whole text is redacted in the stream, in the same places."""
    text = " ".join(parts)
    deltas = [(Text("output", text[at : at + size]), 0.003) for at in range(0, len(text), size)]
    rules = policy(mode, detectors=True)
    seen = run(Source(deltas), FakeGuard(None, latency_s=latency_s), rules)
    whole, _ = virtual_time.run(_redacted(text, rules))
    assert seen.text() == whole
    assert EMAIL not in seen.text()
    assert CARD not in seen.text()


async def _redacted(text: str, rules: Policy) -> str:
    from guardmw import Check
    from guardmw.types import apply_redactions

    decision = await Checker(rules, guard=FakeGuard(None)).check(Check("output", text))
    return apply_redactions(text, decision.redactions)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(sources(), st.sampled_from(["fast", "slow", "hang"]), st.sampled_from(["hold", "pass", "shadow"]))
def test_cancelling_at_any_step_leaves_nothing_running(
    source: Source, kind: str, mode: Literal["hold", "pass", "shadow"]
) -> None:
    """I6: at every await of the consumer, of the check and of the source."""

    def guard() -> FakeGuard:
        return FakeGuard(None, latency_s=0.05 if kind == "slow" else 0.0, fail="hang" if kind == "hang" else None)

    _, loop = virtual_time.run(consume(Source(source.deltas), guard(), policy(mode)))
    stride = max(1, loop.steps // 20)
    for step in range(0, loop.steps, stride):
        copy = Source(source.deltas)
        virtual_time.run(consume(copy, guard(), policy(mode)), cancel_at=step)
        assert copy.given == 0 or copy.closed_at_s is not None


def test_cancelling_a_check_cancels_the_guard() -> None:
    """I6: the guard's own coroutine sees the cancellation."""
    cancelled = []

    class Slow(FakeGuard):
        async def check(self, check: Any, policy: Policy) -> Any:
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                cancelled.append(check)
                raise

    async def main() -> None:
        source = Source([(Text("output", "some text. "), 0.0), (Text("output", "more"), 10.0)])
        consumer = asyncio.create_task(consume(source, Slow(), policy()))
        await asyncio.sleep(0.5)
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)

    virtual_time.run(main())
    assert len(cancelled) == 1


async def test_closing_the_generator_closes_the_source() -> None:
    source = Source([(Text("output", "word. "), 0.0)] * 50)
    checker = Checker(policy(), guard=FakeGuard(None))
    stream = guard_stream(source.stream(), checker, policy(), agent="a")
    await anext(stream)
    await stream.aclose()
    assert source.closed_at_s is not None


def test_one_check_at_a_time_and_the_end_supersedes_it() -> None:
    """A slow guard makes larger chunks, not a queue; the last check starts when the source ends."""
    in_flight: list[int] = []

    class Counting(FakeGuard):
        async def check(self, check: Any, policy: Policy) -> Any:
            in_flight.append(1)
            assert len(in_flight) == 1
            try:
                return await super().check(check, policy)
            finally:
                in_flight.pop()

    guard = Counting(None, latency_s=0.02)
    source = Source([(Text("output", "word "), 0.002)] * 600)
    seen = run(source, guard, policy(streaming={}))
    assert seen.text() == source.text()
    assert seen.ended_at_s == pytest.approx(600 * 0.002 + 0.02, abs=1e-6)
    assert len(guard.checks) < 60


def test_the_first_words_come_early() -> None:
    source = Source([(Text("output", "word "), 0.002)] * 600)
    guard = FakeGuard(None, latency_s=0.02)
    first_s: list[float] = []

    async def main() -> None:
        rules = policy(streaming={})
        async for _ in guard_stream(source.stream(), Checker(rules, guard=guard), rules, agent="a"):
            first_s.append(asyncio.get_running_loop().time())

    virtual_time.run(main())
    assert first_s[0] <= 0.045


def test_a_silent_source_does_not_hold_text_back_for_ever() -> None:
    source = Source([(Text("output", "Hi"), 0.0), (Text("output", " there"), 30.0)])
    guard = FakeGuard(None)
    at_s: list[float] = []

    async def main() -> None:
        rules = policy(streaming={"max_hold_ms": 400, "first_chunk": 50})
        async for _ in guard_stream(source.stream(), Checker(rules, guard=guard), rules, agent="a"):
            at_s.append(asyncio.get_running_loop().time())

    virtual_time.run(main())
    assert at_s[0] == pytest.approx(0.4)


def test_the_guard_sees_the_whole_answer_each_time() -> None:
    source = Source([(Text("output", f"Sentence {index}. "), 0.01) for index in range(40)])
    guard = FakeGuard(None, latency_s=0.005)
    run(source, guard, policy())
    contents = [check.content for check in guard.checks]
    assert len(contents) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(contents))
    assert [check.offset_chars for check in guard.checks] == [0, *(len(content) for content in contents[:-1])]
    assert contents[-1] == source.text()


def test_a_source_that_will_not_close_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> AsyncGenerator[Text, None]:
        try:
            yield Text("output", f"{MARKER}. ")
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(30)

    async def main() -> float:
        items = guard_stream(stubborn(), Checker(policy(), guard=FakeGuard(MARKER)), policy(), agent="a")
        seen = [item async for item in items]
        assert isinstance(seen[-1], Blocked)
        ended_s = asyncio.get_running_loop().time()
        await asyncio.sleep(120)
        return ended_s

    ended_s, _ = virtual_time.run(main())
    assert ended_s is not None
    assert ended_s < 5
    assert "doesn't end when cancelled" in caplog.text


def test_a_source_that_cancels_itself_is_not_taken_for_finished() -> None:
    async def broken() -> AsyncGenerator[Text, None]:
        yield Text("output", "half an ans")
        raise asyncio.CancelledError

    async def main() -> str:
        with pytest.raises(asyncio.CancelledError):
            async for _ in guard_stream(broken(), Checker(policy(), guard=FakeGuard(None)), policy(), agent="a"):
                pass
        return "raised"

    assert virtual_time.run(main())[0] == "raised"


def test_a_consumer_that_does_not_read_stops_the_reading() -> None:
    """Back-pressure: at most a megabyte is read ahead."""
    piece = "x" * 99_999 + "\n"
    source = Source([(Text("output", piece), 0.001)] * 30)

    async def main() -> None:
        rules = policy()
        stream = guard_stream(source.stream(), Checker(rules, guard=FakeGuard(None)), rules, agent="a")
        await anext(stream)
        await asyncio.sleep(5.0)
        assert source.given < 15
        text = "".join([item.text async for item in stream if isinstance(item, Released)])
        assert len(text) > 29 * len(piece)

    virtual_time.run(main())


def test_a_category_that_redacts_replaces_what_is_new() -> None:
    rules = policy(categories=[{"id": "gossip", "title": "G", "unsafe_when": "It gossips.", "action": "redact"}])
    source = Source([(Text("output", "All is well. "), 0.5), (Text("output", f"{MARKER} he said. "), 0.5)])
    seen = run(source, FakeGuard(MARKER), rules)
    assert MARKER not in seen.text()
    assert seen.text().startswith("All is well.")
    assert "[GOSSIP]" in seen.text()
