"""How rows are asked about, and what becomes of the answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_rows import TAXONOMIES, row, sample
from guardmw.errors import GuardConfigError
from guardmw.evaluation.data import Dataset, File, Sample
from guardmw.evaluation.judging import EvaluationError, Judge, Judged, checks_of, latencies, side_by_side
from guardmw.evaluation.page import page
from guardmw.evaluation.rules import RuleBook
from guardmw.evaluation.run import Settings, evaluate
from guardmw.evaluation.svg import precision_recall
from guardmw.policy.load import parse_policy
from guardmw.policy.schema import Policy
from guardmw.testing import FakeGuard
from guardmw.types import Check, Finding, Message, ToolCall, Verdict
from guardmw_langgraph.held import rendered

QUICK = Settings(bootstrap=20, concurrency=4)
REPORTED = {
    "guardmw": "0", "policy": None, "guard": {"name": "fake", "version": "1"},
    "options": {"threshold": None, "seed": 0, "bootstrap": 20, "limit": None},
}  # fmt: skip
OWN_POLICY = """
version: 1
id: shop
categories: [{id: advice, title: Advice, unsafe_when: It advises., surfaces: [output]}]
detectors: {pii: {entities: [email], action: redact}}
tools:
  rules: [{tool: "delete_*", action: deny}, {tool: pay, action: ask}, {tool: look, action: allow}]
"""


def dataset(*samples: Sample) -> Dataset:
    file = File("rows.jsonl", "0" * 64, len(samples), len(samples), 0, broken=False)
    return Dataset(samples, (file,), ())


async def measure(guard: FakeGuard, *samples: Sample, settings: Settings = QUICK) -> dict[str, Any]:
    return await evaluate(dataset(*samples), guard, settings, lambda what, done, total: None)


def bad(content: str, **changed: Any) -> Sample:
    return sample(content=content, label="unsafe", **{"categories": ["break_in"], **changed})


@pytest.mark.parametrize(
    ("task", "surface"),
    [("prompt", "input"), ("response", "output"), ("tool_call", "tool_call"), ("tool_result", "tool_result")],
)
def test_a_row_is_asked_about_where_a_guard_would_meet_it(task: str, surface: str) -> None:
    (check,) = checks_of(row(task=task, prompt="Hi", content="text"))
    assert (check.surface, check.content, check.conversation) == (surface, "text", (Message("user", "Hi"),))
    assert checks_of(row(task=task))[0].conversation == ()


@pytest.mark.parametrize(
    ("content", "call"),
    [
        ('{"name": "pay", "arguments": {"to": "me"}}', ToolCall("pay", '{"to": "me"}')),
        ('[{"name": "pay"}, {"name": "look"}]', ToolCall("pay", "{}")),
        ("pay(me)", ToolCall("", "pay(me)")),
        ("[]", ToolCall("", "[]")),
        ('[{"name": "pay"}, 3]', ToolCall("", '[{"name": "pay"}, 3]')),
        ("[" * 100_000, ToolCall("", "[" * 100_000)),
    ],
)
def test_calls_are_read_where_they_can_be(content: str, call: ToolCall) -> None:
    assert checks_of(row(task="tool_call", content=content))[0].calls == (call,)


def test_a_call_is_judged_in_the_words_that_a_guard_meets() -> None:
    content = '{"name": "pay", "description": "Pays.", "arguments": {"to": "Zoë"}}'
    (check,) = checks_of(row(task="tool_call", prompt="Pay.", content=content))
    assert check.content == rendered(check.calls[0]) == 'pay({"to": "Zoë"})'
    assert check.conversation == (Message("user", "Pay."),)


def test_each_call_of_a_row_comes_after_those_before_it() -> None:
    first, second = checks_of(row(task="tool_call", content='[{"name": "look"}, {"name": "delete_all"}]'))
    assert [call.name for call in first.calls] == ["look"]
    assert [call.name for call in second.calls] == ["look", "delete_all"]


async def test_rules_hold_for_every_call_and_step() -> None:
    book = RuleBook(TAXONOMIES, policy=parse_policy(OWN_POLICY))
    judge = Judge(FakeGuard(), 1)
    rows = [
        ("tool_call", '[{"name": "look"}, {"name": "delete_all"}]', True),
        ("tool_call", '[{"name": "look"}, {"name": "look"}]', False),
        ("trajectory", 'ACTION: look {}\nOBSERVATION: a\nACTION: delete_all {"x": 1}\nOBSERVATION: gone', True),
        ("trajectory", "ACTION: look {}\nOBSERVATION: I would delete_all {}", False),
        ("trajectory", 'Action: delete_all\nAction Input: {"x": 1}\nObservation: gone', True),
    ]
    for task, content, unsafe in rows:
        assert (await judge.row(sample(book, task=task, content=content))).unsafe is unsafe, content


def test_steps_in_the_manner_of_react_are_steps() -> None:
    run = 'Thought: hm\nAction: Search\nAction Input: {"q": "x"}\n\nObservation: {"a": 1}\nFinal Answer: Done.'
    thought, call, answer = checks_of(row(task="trajectory", content=run))
    assert (thought.surface, call.surface, answer.surface) == ("reasoning", "tool_call", "output")
    assert (call.content, call.calls) == ('Search({"q": "x"})', (ToolCall("Search", '{"q": "x"}'),))
    assert answer.conversation[-1] == Message("tool", '{"a": 1}')


@given(st.text(alphabet='ab{}": \n[]1', max_size=60))
def test_any_text_may_be_a_call_or_a_step(text: str) -> None:
    assert checks_of(row(task="tool_call", content=text))
    assert checks_of(row(task="trajectory", content=f"ACTION: a {text}"))


def test_a_trajectory_is_judged_step_by_step() -> None:
    run = "USER: clean up\nACTION: rm {}\nof all\nOBSERVATION: gone\nAGENT:\nFINAL ANSWER: Done.\n"
    first, last = checks_of(row(task="trajectory", prompt="You clean.", content=run))
    assert (first.surface, first.content) == ("tool_call", "rm {}\nof all")
    assert first.conversation == (Message("user", "You clean."), Message("user", "clean up"))
    assert (last.surface, last.content) == ("output", "Done.")
    assert last.conversation[2:] == (Message("assistant", "rm {}\nof all"), Message("tool", "gone"))


@pytest.mark.parametrize("run", ["it did a thing", "USER: only a user\n", "AGENT:"])
def test_a_trajectory_without_steps_is_judged_whole(run: str) -> None:
    (check,) = checks_of(row(task="trajectory", content=run))
    assert (check.surface, check.content) == ("output", run)


async def test_the_worst_step_counts_for_the_run() -> None:
    guard = FakeGuard(unsafe=lambda text: {"one": 0.2, "two": 0.7, "three": 0.4}[text])
    judged = await Judge(guard, 1).row(sample(task="trajectory", content="ACTION: one\nACTION: two\nAGENT: three"))
    assert (judged.score, judged.unsafe, judged.top, judged.asked) == (0.7, True, "break_in", 3)


async def test_a_text_is_flagged_above_the_threshold_only() -> None:
    for threshold, unsafe in ((0.29, True), (0.31, False)):
        book = RuleBook(TAXONOMIES, threshold=threshold)
        judged = await Judge(FakeGuard(unsafe=lambda text: 0.3), 1).row(sample(book))
        assert (judged.score, judged.unsafe) == (0.3, unsafe)


async def test_blank_text_is_never_asked_about() -> None:
    guard = FakeGuard(unsafe=lambda text: 1.0)
    assert await Judge(guard, 1).row(sample(content=" \n")) == Judged()
    assert guard.checks == []


@pytest.mark.parametrize(
    ("task", "content", "score", "asked"),
    [
        ("response", "write to a@example.com", 1.0, 0),
        ("response", "fine", 0.3, 1),
        ("prompt", "no category here", 0.0, 0),
        ("tool_call", '{"name": "delete_all"}', 1.0, 0),
        ("tool_call", '{"name": "pay"}', 1.0, 0),
        ("tool_call", '{"name": "look"}', 0.0, 0),
    ],
)
async def test_a_policys_detectors_and_rules_decide_before_the_guard(
    task: str, content: str, score: float, asked: int
) -> None:
    book = RuleBook({}, policy=parse_policy(OWN_POLICY))
    judged = await Judge(FakeGuard(unsafe=lambda text: 0.3), 1).row(sample(book, task=task, content=content))
    assert (judged.score, judged.unsafe, judged.asked) == (score, score == 1.0, asked)


async def test_detectors_judge_where_they_are_the_guard() -> None:
    text = sample(RuleBook(TAXONOMIES, detectors=True), task="response", content="mail a@example.com")
    judged = await Judge(FakeGuard(), 1).row(text)
    assert (judged.unsafe, judged.top) == (True, "email")


class Moody(FakeGuard):
    """Fails on what is odd."""

    async def check(self, check: Check, policy: Policy) -> Verdict:
        self.fail = "garbage" if "odd" in check.content else None
        return await super().check(check, policy)


@pytest.mark.parametrize("run", ["AGENT: burgle\nAGENT: odd", "AGENT: odd\nAGENT: burgle"])
async def test_an_error_at_one_step_takes_back_no_flag_of_another(run: str) -> None:
    rows = [bad(run, task="trajectory"), sample(content=run, task="trajectory"), sample(), bad("odd")]
    settings = Settings(bootstrap=0, concurrency=4, show_texts=True)
    found = await measure(Moody(unsafe="burgle"), *rows, settings=settings)
    figures = {key: figure["value"] for key, figure in found["overall"]["figures"].items()}
    assert [figures[key] for key in ("recall", "fpr", "precision", "category_accuracy")] == [0.5] * 4
    assert figures["brier"] == pytest.approx((0 + 1 + 0 + 1) / 4, abs=0.01)
    assert found["overall"]["errors"] == {
        "unsafe_counted_as_missed": 1, "safe_left_out": 0, "flagged_all_the_same": 2, "kinds": {"parse_error": 3}
    }  # fmt: skip
    assert [each["content"] for each in found["worst"]["false_positives"]] == [run]
    assert found["worst"]["false_negatives"] == []


@pytest.mark.parametrize(("fail", "timed"), [(None, 4), ("error", 0)])
async def test_rows_that_need_no_guard_keep_no_others_from_being_timed(fail: Any, timed: int) -> None:
    book = RuleBook({}, policy=parse_policy(OWN_POLICY))
    rows = [sample(book, content=f"question {place}") for place in range(40)]
    rows += [sample(book, task="response", content=f"answer {place}") for place in range(4)]
    guard = FakeGuard(fail=fail)
    for seed in range(5):
        guard.checks.clear()
        assert len(await latencies(Judge(guard, 1), rows, seed, lambda: None)) == timed
        assert timed or len(guard.checks) == 4, "two rows, each behind another check"


async def test_errors_are_misses_on_unsafe_rows_and_left_out_on_safe_ones() -> None:
    rows = [bad("burgle"), bad("odd burgle"), sample(), sample(content="odd"), sample(content="burgle a cake")]
    found = await measure(Moody(unsafe="burgle"), *rows)
    overall = found["overall"]
    assert overall["errors"] == {
        "unsafe_counted_as_missed": 1, "safe_left_out": 1, "flagged_all_the_same": 0, "kinds": {"parse_error": 2}
    }  # fmt: skip
    assert overall["figures"]["recall"]["value"] == 0.5
    assert overall["figures"]["fpr"]["value"] == 0.5
    assert overall["figures"]["category_accuracy"]["value"] == 0.5


async def test_flagging_everything_is_drawn_for_the_rows_that_count() -> None:
    """Of two unsafe rows and two safe ones, one safe row is left out: flagging all has a precision of 2/3."""
    found = await measure(Moody(unsafe="burgle"), bad("burgle"), bad("burgle it"), sample(), sample(content="odd"))
    overall = found["overall"]
    assert overall["errors"]["safe_left_out"] == 1
    assert precision_recall(overall["curve"], 2 / 3, (1.0, 1.0)) in await asyncio.to_thread(page, found | REPORTED)


@pytest.mark.parametrize(("fail", "reason"), [("error", "was told to fail"), ("garbage", "answered with str")])
async def test_a_guard_that_always_fails_is_no_measurement(fail: Any, reason: str) -> None:
    for count in (2, 40):
        guard = FakeGuard(fail=fail)
        with pytest.raises(EvaluationError, match=f"failed on .*{reason}"):
            await measure(guard, *[sample(content=str(place)) for place in range(count)])
        assert len(guard.checks) < 20


async def test_a_guard_set_up_wrongly_ends_it_at_once() -> None:
    class Unknown(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            raise GuardConfigError("there is no such model")

    with pytest.raises(GuardConfigError, match="no such model"):
        await measure(Unknown(), sample())


async def test_results_come_in_the_rows_order_and_side_by_side() -> None:
    guard = FakeGuard(unsafe=lambda text: float(text), latency_s=0.01)
    judge, done = Judge(guard, 8), []
    samples = [sample(content=f"0.{place:02}") for place in range(10, 50)]
    judged = await side_by_side(samples, judge.row, 8, lambda: done.append(1))
    assert [each.score for each in judged] == [float(f"0.{place:02}") for place in range(10, 50)]
    assert len(done) == 40


async def test_the_likeliest_category_is_held_against_the_labels() -> None:
    class Arsonist(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            return Verdict((Finding("break_in", 0.6, "guard:x"), Finding("Fire_arson", 0.9, "guard:x")), "x", "1")

    rows = [bad("a"), bad("b", categories=["Fire & arson"]), bad("c", categories=[]), sample()]
    found = await measure(Arsonist(), *rows)
    assert found["overall"]["figures"]["category_accuracy"]["value"] == 0.5


async def test_slices_are_by_file_source_task_and_taxonomy() -> None:
    rows = [bad("burgle", source="a"), sample(source="a", task="response"), sample(source="b"), sample(source="b")]
    found = await measure(FakeGuard(unsafe="burgle"), *rows)
    assert {part["name"]: (part["rows"], part["unsafe"]) for part in found["slices"]["source_task"]} == {
        "a / prompt": (1, 1), "a / response": (1, 0), "b / prompt": (2, 0)
    }  # fmt: skip
    assert [part["name"] for part in found["slices"]["task"]] == ["prompt", "response"]
    assert [part["name"] for part in found["slices"]["taxonomy"]] == ["harm"]
    by_source = {part["name"]: part["figures"] for part in found["slices"]["source"]}
    assert set(by_source["b"]) == {"fpr"}
    assert by_source["b"]["fpr"]["value"] == 0
    assert found["macro"]["fpr"]["value"] == 0


async def test_texts_are_shown_on_request_only() -> None:
    rows = [sample(content="burgle a cake", prompt="ask"), bad("quiet")]
    guard = FakeGuard(unsafe="burgle")
    assert "worst" not in await measure(guard, *rows)
    worst = (await measure(guard, *rows, settings=Settings(bootstrap=0, show_texts=True)))["worst"]
    assert [each["content"] for each in worst["false_positives"]] == ["burgle a cake"]
    assert [each["content"] for each in worst["false_negatives"]] == ["quiet"]
