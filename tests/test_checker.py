"""The one seam: what policy, detectors, rules and a guard's answer come to; each decision is recorded once."""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

import virtual_time
from guardmw import Check, Checker, Decision, Finding, Policy, PolicySet, Verdict
from guardmw.errors import GuardConfigError, PolicyError, UnknownAgentError
from guardmw.guard.resilience import GuardRunner
from guardmw.policy.schema import shift
from guardmw.testing import FakeGuard
from guardmw.traces.record import MemoryRecorder
from guardmw.types import ACTIONS, Action, Redaction, ToolCall, apply_redactions, merge_redactions, severity


def policy(**keys: Any) -> Policy:
    harm = {"id": "harm", "title": "Harm", "unsafe_when": "It harms."}
    return Policy.model_validate({"id": "test", "categories": [harm], **keys})


def category(**keys: Any) -> Policy:
    return policy(categories=[{"id": "harm", "title": "Harm", "unsafe_when": "It harms.", **keys}])


async def decide(rules: Policy, probability: float, content: str = "text", **options: Any) -> Decision:
    checker = Checker(rules, guard=FakeGuard(lambda _: probability))
    return await checker.check(Check("output", content), **options)


@pytest.mark.parametrize(
    ("keys", "probability", "action"),
    [
        ({}, 0.5, "allow"),
        ({}, 0.51, "block"),
        ({"action": "flag"}, 0.51, "flag"),
        ({"action": "redact"}, 0.51, "redact"),
        ({"ask_above": 0.4, "block_above": 0.8}, 0.4, "allow"),
        ({"ask_above": 0.4, "block_above": 0.8}, 0.41, "ask"),
        ({"ask_above": 0.4, "block_above": 0.8}, 0.8, "ask"),
        ({"ask_above": 0.4, "block_above": 0.8}, 0.81, "block"),
        ({"surfaces": ["input"]}, 1.0, "allow"),
    ],
)
async def test_thresholds_decide(keys: dict[str, Any], probability: float, action: Action) -> None:
    decision = await decide(category(**keys), probability)
    assert decision.action == decision.enforced == action
    if action not in ("allow",):
        assert f"harm {probability:.2f}" in decision.why


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_strictness_moves_thresholds_one_way(threshold: float, one: float, other: float) -> None:
    lenient, strict = sorted((one, other))
    assert 0 < shift(threshold, strict) <= shift(threshold, lenient) < 1
    assert shift(threshold, 0.5) == pytest.approx(threshold)


async def test_strictness_changes_the_action() -> None:
    assert (await decide(category().model_copy(update={"strictness": 1.0}), 0.2)).action == "block"
    assert (await decide(category().model_copy(update={"strictness": 0.0}), 0.8)).action == "allow"


def test_a_changed_copy_of_a_policy_has_a_hash_of_its_own() -> None:
    original = category()
    assert original.hash
    assert original.categories_on("output")
    copy = original.model_copy(update={"categories": ()})
    assert copy.hash != original.hash
    assert copy.categories_on("output") == ()
    assert original.model_copy() == original
    assert original.model_copy().hash == original.hash


async def test_shadow_decides_and_does_nothing() -> None:
    decision = await decide(policy(mode="shadow"), 0.99)
    assert (decision.action, decision.enforced, decision.withheld) == ("block", "allow", False)


async def test_the_most_severe_action_wins() -> None:
    names = ("flag", "redact", "block")
    rules = policy(categories=[{"id": name, "title": "T", "unsafe_when": "U", "action": name} for name in names])

    class Everything(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            return Verdict(tuple(Finding(one.id, 0.9, "guard:fake") for one in policy.categories))

    decision = await Checker(rules, guard=Everything()).check(Check("output", "text"))
    assert decision.action == "block"
    assert "block 0.90" in decision.why
    assert "flag" not in decision.why


async def test_a_detector_redacts_and_the_guard_is_still_asked() -> None:
    guard = FakeGuard(None)
    rules = policy(detectors={"pii": {"entities": ["email"]}})
    decision = await Checker(rules, guard=guard).check(Check("output", "write to me@example.com today"))
    assert decision.action == "redact"
    assert apply_redactions(decision.check.content, decision.redactions) == "write to [EMAIL] today"
    assert len(guard.checks) == 1


async def test_a_detector_that_blocks_needs_no_guard() -> None:
    guard = FakeGuard(None)
    rules = policy(detectors={"pii": {"entities": ["email"], "action": "block"}})
    decision = await Checker(rules, guard=guard).check(Check("output", "write to me@example.com today"))
    assert decision.action == "block"
    assert guard.checks == []
    assert decision.verdict.findings[0].source == "detector:pii.email"


async def test_detectors_read_what_the_escapes_of_a_call_mean() -> None:
    rules = policy(detectors={"pii": {"entities": ["email"]}})
    arguments = json.dumps({"to": "Ann", "text": "write to:\nme@example.com today"})
    decision = await Checker(rules, guard=FakeGuard(None)).check(Check("tool_call", f"send({arguments})"))
    assert decision.action == "redact"
    shown = apply_redactions(f"send({arguments})", decision.redactions)
    assert json.loads(shown.removeprefix("send(").removesuffix(")")) == {
        "to": "Ann", "text": "write to:\n[EMAIL] today",
    }  # fmt: skip


async def test_a_guard_that_redacts_without_a_span_redacts_what_is_new() -> None:
    decision = await decide(category(action="redact"), 0.9, "old and new")
    assert decision.redactions == (Redaction((0, 11), "[HARM]"),)


async def test_empty_text_needs_no_guard_and_is_recorded() -> None:
    guard, recorder = FakeGuard(lambda _: 1.0), MemoryRecorder()
    checker = Checker(policy(), guard=guard, recorder=recorder)
    for content in ("", "  \n"):
        assert (await checker.check(Check("output", content))).action == "allow"
    assert guard.checks == []
    assert len(recorder.decisions) == checker.checks == 2


@pytest.mark.parametrize(
    "content", ["\ud800 lone", "nul \0 and bell \a", "zero\u200bwidth", "e\u0301" * 50, "\U0001f600"]
)
async def test_odd_text_is_judged_like_any_other(content: str) -> None:
    guard = FakeGuard(lambda _: 0.9)
    rules = policy(detectors={"pii": {}, "secrets": {}})
    decision = await Checker(rules, guard=guard).check(Check("output", content))
    assert decision.action == "block"
    assert guard.checks[0].content == content


async def test_every_decision_is_recorded_once_with_its_policy() -> None:
    recorder = MemoryRecorder()
    checker = Checker(policy(), guard=FakeGuard(None), recorder=recorder)
    decisions = [await checker.check(Check("output", f"text {index}")) for index in range(3)]
    assert list(recorder.decisions) == decisions
    assert {decision.check.policy for decision in decisions} == {policy().ref}


async def test_a_recorder_that_fails_changes_no_decision(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def record(self, decision: Decision) -> None:
            raise OSError("disk full")

    checker = Checker(policy(), guard=FakeGuard(None), recorder=Broken())
    assert (await checker.check(Check("output", "text"))).action == "allow"
    assert "the recorder failed" in caplog.text


@pytest.mark.parametrize("fail", ["error", "hang", "garbage"])
@pytest.mark.parametrize(("answer", "action"), [("block", "block"), ("allow", "allow"), ("fallback", "block")])
async def test_a_guard_that_fails(fail: Any, answer: str, action: Action) -> None:
    """`fallback` without any fallback that answers is a block."""
    rules = policy(on_guard_error={"output": answer}, limits={"deadline_ms": 20})
    checker = Checker(rules, guard=FakeGuard(fail=fail), fallback=FakeGuard(fail="error"))
    decision = await checker.check(Check("output", "text"))
    assert decision.action == action
    expected = {"error": "connect_error", "hang": "timeout", "garbage": "parse_error"}[fail]
    assert decision.verdict.error == expected
    assert "on_guard_error" in decision.why or action == "allow"


async def test_the_fallback_guard_judges_when_the_guard_fails() -> None:
    rules = policy(on_guard_error={"output": "fallback"})
    checker = Checker(rules, guard=FakeGuard(fail="error"), fallback=FakeGuard("bad", name="second"))
    good, bad = [await checker.check(Check("output", text)) for text in ("good", "bad")]
    assert (good.action, bad.action) == ("allow", "block")
    assert good.verdict.guard == "second"
    assert good.verdict.fell_back == "connect_error"


async def test_detectors_still_act_when_the_guard_fails_open() -> None:
    rules = policy(on_guard_error={"output": "allow"}, detectors={"pii": {"entities": ["email"]}})
    decision = await Checker(rules, guard=FakeGuard(fail="error")).check(Check("output", "me@example.com"))
    assert decision.action == "redact"


@pytest.mark.parametrize(
    "verdict",
    [
        None,
        Verdict((Finding("unknown", 0.5, "guard:x"),)),
        Verdict((Finding("harm", float("nan"), "guard:x"),)),
        Verdict((Finding("harm", 1.5, "guard:x"),)),
        Verdict((Finding("harm", -0.1, "guard:x"),)),
    ],
)
async def test_garbage_is_a_failure_and_never_safe(verdict: Any) -> None:
    class Garbage(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            return verdict  # type: ignore[no-any-return]

    decision = await Checker(policy(), guard=Garbage()).check(Check("output", "text"))
    assert (decision.action, decision.verdict.error) == ("block", "parse_error")


async def test_verdicts_outside_streams_are_remembered() -> None:
    guard = FakeGuard("bad")
    checker = Checker(policy(), guard=guard)
    first = await checker.check(Check("input", "bad words"))
    again = await checker.check(Check("input", "bad words"))
    assert len(guard.checks) == 1
    assert first.action == again.action == "block"
    assert (first.verdict.cached, again.verdict.cached) == (False, True)
    await checker.check(Check("output", "bad words"))
    await checker.check(Check("input", "bad words", stream_id="s"))
    guard.version = "2"
    await checker.check(Check("input", "bad words"))
    assert len(guard.checks) == 4


async def test_failures_are_not_remembered() -> None:
    guard = FakeGuard(fail="error")
    checker = Checker(policy(), guard=guard)
    await checker.check(Check("input", "text"))
    guard.fail = None
    assert (await checker.check(Check("input", "text"))).action == "allow"


async def test_the_cache_is_bounded() -> None:
    guard = FakeGuard(None)
    checker = Checker(policy(), guard=guard, cache_size=2)
    for text in ("a", "b", "c", "a"):
        await checker.check(Check("input", text))
    assert [check.content for check in guard.checks] == ["a", "b", "c", "a"]


def test_a_rate_limit_holds_per_agent_and_waiting_counts_against_the_deadline() -> None:
    rules = policy(limits={"checks_per_s": 2, "deadline_ms": 100})

    async def main() -> list[str | None]:
        checker = Checker(rules, guard=FakeGuard(None))
        checks = [Check("output", f"text {index}", agent="default") for index in range(3)]
        decisions = await asyncio.gather(*(checker.check(check, policy=rules) for check in checks))
        other = await checker.check(Check("output", "text", agent="other"), policy=rules)
        return [decision.verdict.error for decision in (*decisions, other)]

    errors = asyncio.run(main())
    assert errors == [None, None, "overloaded", None]


def test_at_most_so_many_checks_are_in_flight() -> None:
    running: list[int] = []
    most: list[int] = []

    class Counting(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            running.append(1)
            most.append(len(running))
            await asyncio.sleep(0.01)
            running.pop()
            return Verdict()

    async def main() -> None:
        checker = Checker(policy(), guard=Counting(), max_in_flight=3)
        await asyncio.gather(*(checker.check(Check("output", f"text {index}")) for index in range(20)))

    virtual_time.run(main())
    assert max(most) == 3


def test_one_checker_serves_several_event_loops() -> None:
    checker = Checker(policy(), guard=FakeGuard("bad", latency_s=0.001), max_in_flight=1)

    async def main() -> list[Decision]:
        return await asyncio.gather(*(checker.check(Check("output", f"bad {index}")) for index in range(5)))

    for _ in range(2):
        assert {decision.action for decision in asyncio.run(main())} == {"block"}


async def test_a_tool_rule_denies_before_any_guard() -> None:
    guard = FakeGuard(None)
    rules = policy(tools={"rules": [{"tool": "delete_*", "action": "deny"}, {"tool": "send", "action": "ask"}]})
    checker = Checker(rules, guard=guard)

    async def call(name: str) -> Decision:
        return await checker.check(Check("tool_call", f"{name}({{}})", calls=(ToolCall(name),)))

    assert (await call("delete_all")).action == "block"
    assert guard.checks == []
    assert (await call("send")).action == "ask"
    assert (await call("read")).action == "allow"


async def test_the_guard_only_narrows_what_rules_allow() -> None:
    guard = FakeGuard(lambda _: 1.0)
    rules = policy(tools={"rules": [{"tool": "ping", "action": "allow"}]})
    checker = Checker(rules, guard=guard)
    assert (await checker.check(Check("tool_call", "ping({})", calls=(ToolCall("ping"),)))).action == "allow"
    assert (await checker.check(Check("tool_call", "pong({})", calls=(ToolCall("pong"),)))).action == "block"


async def test_policies_are_chosen_by_agent_and_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardmw.checker.RELOAD_INTERVAL_S", 0.0)
    file = tmp_path / "one.yaml"
    file.write_text("id: one\nagents: [one]\ncategories: [{id: harm, title: T, unsafe_when: U}]\n")
    checker = await asyncio.to_thread(Checker, tmp_path, guard=FakeGuard(lambda _: 0.9))
    assert (await checker.check(Check("output", "text", agent="one"))).action == "block"
    with pytest.raises(UnknownAgentError, match="two"):
        await checker.check(Check("output", "text", agent="two"))
    file.write_text("id: one\nagents: [one]\ncategories: [{id: harm, title: T, unsafe_when: U, action: flag}]\n")
    assert (await checker.check(Check("output", "text", agent="one"))).action == "flag"
    file.write_text("id: one\nagents: [one]\ncategories: [{id: harm, titel: T}]\n")
    assert (await checker.check(Check("output", "text", agent="one"))).action == "flag"
    assert checker.policies.last_error is not None


async def test_a_reloaded_policy_finds_its_fallback_guard_and_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guardmw.checker.RELOAD_INTERVAL_S", 0.0)
    file = tmp_path / "default.yaml"
    categories = "categories: [{id: harm, title: T, unsafe_when: U}]\n"
    file.write_text("id: default\n" + categories)
    options: dict[str, Any] = {"guard": FakeGuard(fail="error"), "fallback": FakeGuard("bad")}
    checker = await asyncio.to_thread(Checker, tmp_path, **options)
    assert (await checker.check(Check("output", "good"))).action == "block"
    file.write_text("id: default\non_guard_error: {output: fallback}\n" + categories)
    assert (await checker.check(Check("output", "good"))).action == "allow"
    assert (await checker.check(Check("output", "bad"))).action == "block"


def test_a_guard_that_can_prepare_is_told_every_policy() -> None:
    class Prepared(FakeGuard):
        def __init__(self) -> None:
            super().__init__(None)
            self.policies: list[str] = []

        def prepare(self, policy: Policy) -> None:
            self.policies.append(policy.id)

    guard = Prepared()
    Checker(PolicySet([Policy(id="one", agents=("a",)), Policy(id="two", agents=("b",))]), guard=guard)
    assert guard.policies == ["one", "two"]


def test_a_checker_that_cannot_work_is_not_built() -> None:
    with pytest.raises(PolicyError):
        Checker("no-such-policy", guard=FakeGuard(None))
    with pytest.raises(GuardConfigError, match="no-such-guard"):
        Checker(policy(), guard="no-such-guard")
    with pytest.raises(GuardConfigError):
        Checker(policy(), guard=object())  # type: ignore[arg-type]


async def test_a_checker_closes_only_what_it_built() -> None:
    guard = FakeGuard(None)
    await Checker(policy(), guard=guard).aclose()
    assert not guard.closed


async def test_any_exception_of_a_guard_is_a_failed_check(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            raise ZeroDivisionError("oops")

    caplog.set_level(logging.WARNING)
    decision = await Checker(policy(), guard=Broken()).check(Check("output", "text"))
    assert (decision.action, decision.verdict.error) == ("block", "_OTHER")
    assert "ZeroDivisionError: oops" in caplog.text


async def test_the_runner_lets_cancellation_through() -> None:
    runner = GuardRunner(FakeGuard(fail="hang"))
    task = asyncio.create_task(runner.check(Check("output", "text"), policy()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=8))
def test_merged_redactions_cover_the_same_characters_in_order(spans: list[tuple[int, int]]) -> None:
    parts = [Redaction((start, start + length), f"[{index}]") for index, (start, length) in enumerate(spans)]
    merged = merge_redactions(parts)
    assert all(one.span[1] <= other.span[0] for one, other in pairwise(merged))
    covered = {at for part in parts for at in range(*part.span)}
    assert {at for part in merged for at in range(*part.span)} == covered


def test_actions_are_ordered_by_severity() -> None:
    assert [severity(action) for action in ACTIONS] == [0, 1, 2, 3, 4]
