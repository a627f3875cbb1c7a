"""The automaton over calls decides as a reader of the whole history would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardmw.policy import parse_policy
from guardmw.policy.automaton import MAX_NAMES, Automaton, Ended, State, automaton_for
from guardmw.policy.schema import SequenceRule, ToolRule, Tools
from guardmw.policy.values import MAX_FINGERPRINTS, Values
from guardmw.types import ToolCall


@dataclass(frozen=True)
class Made:
    """A call that was made, how it ended, and what the agent read of it."""

    call: ToolCall
    ended: Ended
    result: str = ""


def broken(rule: SequenceRule, history: list[Made], call: ToolCall) -> bool:
    """What the rule means, read off the whole history."""

    def made(pattern: str | None, *endings: Ended) -> list[Made]:
        return [one for one in history if fnmatchcase(one.call.name, pattern or "") and one.ended in endings]

    if rule.after and rule.never:
        return fnmatchcase(call.name, rule.never) and bool(made(rule.after, "done", "hidden", "failed", "pending"))
    if rule.before and rule.require:
        return fnmatchcase(call.name, rule.before) and not made(rule.require, "done", "hidden")
    if rule.tool is not None and rule.at_most is not None:
        return fnmatchcase(call.name, rule.tool) and len(made(rule.tool, *get_args(Ended))) >= rule.at_most
    if not fnmatchcase(call.name, rule.never_into or ""):
        return False
    read = made(rule.taint, "done", "failed")
    if rule.match == "any":
        return bool(read)
    return any(one.result and one.result in call.arguments and one.result not in one.call.arguments for one in read)


names = st.sampled_from(["a", "b", "ab", "c"])
patterns = st.sampled_from(["a", "b", "a*", "c", "*"])
words = st.sampled_from(["alpha77", "bravo88", "chico99"])
calls = st.builds(ToolCall, name=names, arguments=st.lists(words, max_size=2).map(lambda said: json.dumps({"x": said})))
made_calls = st.builds(Made, calls, st.sampled_from(get_args(Ended)), st.just("") | words)
rules: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, after=patterns, never=patterns),
    st.builds(dict, before=patterns, require=patterns),
    st.builds(dict, tool=patterns, at_most=st.integers(0, 3)),
    st.builds(dict, taint=patterns, never_into=patterns, match=st.sampled_from(["any", "values"])),
)
tools = st.lists(rules, max_size=4).map(
    lambda given: Tools(sequences=tuple(SequenceRule(name=f"s{place}", **one) for place, one in enumerate(given)))
)


@given(tools, st.lists(made_calls, max_size=12), calls)
def test_it_decides_as_a_reader_of_the_whole_history(tools: Tools, history: list[Made], call: ToolCall) -> None:
    automaton = Automaton(tools)
    state = automaton.start
    for one in history:
        state = automaton.step(state, one.call, one.ended, one.result)
    first = next((rule for rule in tools.sequences if broken(rule, history, call)), None)
    outcome = automaton.decide(state, call)
    assert (outcome.rule if outcome.action == "deny" else None) == (first and f"sequence:{first.name}")


@given(tools, st.lists(made_calls, max_size=20))
def test_no_executed_history_violates_a_rule_and_none_that_satisfies_them_is_refused(
    tools: Tools, wanted: list[Made]
) -> None:
    automaton = Automaton(tools)
    state, executed = automaton.start, list[Made]()
    for one in wanted:
        allowed = automaton.decide(state, one.call).action != "deny"
        satisfies = not any(broken(rule, executed, one.call) for rule in tools.sequences)
        assert allowed == satisfies
        if allowed:
            state = automaton.step(state, one.call, one.ended, one.result)
            executed.append(one)
    for place, one in enumerate(executed):
        assert not any(broken(rule, executed[:place], one.call) for rule in tools.sequences)


def test_the_state_stays_small_and_stops_changing() -> None:
    automaton = Automaton(
        Tools(
            sequences=(
                SequenceRule(name="never", after="a", never="b"),
                SequenceRule(name="few", tool="a", at_most=2),
            )
        )
    )
    state = automaton.start
    for _ in range(10_000):
        state = automaton.step(state, ToolCall("a"), "done")
    assert state == State(seen=1, counts=(2,), values=())
    assert automaton.step(state, ToolCall("a"), "done") is state


def test_it_is_compiled_once_per_content() -> None:
    one, same, other = (parse_policy(f"id: p\ntools: {{default: {default}}}") for default in ("ask", "ask", "deny"))
    assert automaton_for(one) is automaton_for(same)
    assert automaton_for(one) is not automaton_for(other)
    assert automaton_for(one.model_copy(update={"tools": other.tools})) is automaton_for(other)


def test_names_that_a_model_makes_up_fill_no_memory() -> None:
    automaton = Automaton(Tools(rules=(ToolRule(tool="delete_*", action="deny"),)))
    for number in range(2 * MAX_NAMES):
        assert automaton.decide(automaton.start, ToolCall(f"delete_{number}")).action == "deny"
    assert len(automaton._meanings) <= MAX_NAMES


@pytest.mark.parametrize(
    ("ended", "bars", "fulfils", "taints"),
    [("done", True, True, True), ("hidden", True, True, False), ("failed", True, False, True),
     ("pending", True, False, False)],
)  # fmt: skip
def test_how_a_call_ended_counts(ended: Ended, bars: bool, fulfils: bool, taints: bool) -> None:
    for rule, denied in (
        (SequenceRule(name="s", after="a", never="b"), bars),
        (SequenceRule(name="s", before="b", require="a"), not fulfils),
        (SequenceRule(name="s", taint="a", never_into="b"), taints),
        (SequenceRule(name="s", taint="a", never_into="b", match="values"), taints),
    ):
        automaton = Automaton(Tools(sequences=(rule,)))
        state = automaton.step(automaton.start, ToolCall("a"), ended, "alpha77")
        outcome = automaton.decide(state, ToolCall("b", '{"x": "alpha77"}'))
        assert (outcome.action == "deny") == denied, rule
        assert not denied or (outcome.why and outcome.instead)


CUSTOMER = "Customer C-7 is Jane Doe, jane.doe@example.com, card 4111 1111 1111 1111. She lives in a house by the sea."


@pytest.mark.parametrize(
    ("arguments", "repeated"),
    [
        ('{"body": "mail to JANE.DOE@example.com please"}', True),
        ('{"body": "jane doe"}', True),
        ('{"body": "4111-1111-1111-1111"}', True),
        ('{"body": "4111111111111111"}', True),
        ('{"body": {"4111111111111111": "x"}}', True),
        ('{"body": {"Jane Doe": true}}', True),
        ('{"jane": "weather", "house": 1}', False),
        ('{"body": "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1"}', True),
        (json.dumps({"body": "4111111111111111".translate({code: code + 0xFEE0 for code in range(48, 58)})}), True),
        ('{"a": "41111111", "b": "11111111"}', False),
        ('{"deep": {"list": ["she lives in a house, she says"]}}', True),
        ("Jane Doe, unquoted", True),
        ('{"url": "https://news.example/today", "q": "weather by the sea"}', False),
        ('{"q": "the customer lives where?"}', False),
        ('{"q": "C-7"}', False),
        ("{}", False),
        ("", False),
    ],
)
def test_values_are_found_in_arguments_and_unrelated_calls_pass(arguments: str, repeated: bool) -> None:
    assert Values().adding(CUSTOMER).repeated_in(arguments) == repeated


def test_values_of_json_results_count_whole_and_keys_do_not() -> None:
    values = Values().adding(json.dumps({"customer": {"name": "Jane Doe", "vip": True, "orders": [10421, None]}}))
    assert values.repeated_in('{"x": "jane doe"}')
    assert values.repeated_in('{"x": 10421}')
    assert not values.repeated_in('{"customer": "name", "orders": true}')


def test_a_long_value_is_found_letter_by_letter_and_in_short_groups() -> None:
    token = "Zq8Kx2Lw9Rt4Vb7Nm1Pc6Hd3Js5Fg0Ty"
    values = Values().adding(json.dumps({"token": token}))
    for size in (1, 2, 4):
        groups = " ".join(token[place : place + size] for place in range(0, len(token), size))
        assert values.repeated_in(json.dumps({"x": f"here it is: {groups}."})), size
    assert not values.repeated_in(json.dumps({"x": "a b c d " * 50}))


def test_what_the_call_named_itself_is_no_data_of_the_result() -> None:
    values = Values().adding("order A-10421 of Jane Doe", known='{"order": "A-10421"}')
    assert not values.repeated_in('{"order": "A-10421"}')
    assert values.repeated_in('{"name": "Jane Doe"}')


def test_more_values_than_can_be_told_apart_bar_everything() -> None:
    values = Values().adding("\n".join(f"value{number}" for number in range(MAX_FINGERPRINTS + 1)))
    assert values.full
    assert values.repeated_in('{"x": 1}')
    assert values.adding("more") is values


@given(st.lists(st.text(min_size=1, max_size=40), max_size=20), st.text(max_size=60))
def test_a_long_enough_value_is_found_wherever_it_is_copied(results: list[str], around: str) -> None:
    values = Values()
    for result in results:
        values = values.adding(result)
    for result in results:
        letters = "".join(char for char in result.casefold() if char.isalnum())
        if len(letters) >= 8 and len(result.split()) == 1 and result.isascii():
            assert values.repeated_in(json.dumps({"x": f"{around} {result} {around}"}))
