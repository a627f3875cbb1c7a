"""The history of calls is what the messages say, on whatever branch of a conversation one stands."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from guardmw.policy import parse_policy
from guardmw.policy.automaton import automaton_for
from guardmw.policy.schema import Policy, SequenceRule, Tools
from guardmw.types import ToolCall
from guardmw_langgraph.callmarks import MARK, SAME_ID, not_made
from guardmw_langgraph.history import RECENT_CALLS, REMEMBERED, CallHistory, Past
from toolbox import APPROVE, THREAD, Shop, call, results

RULES: tuple[dict[str, Any], ...] = (
    {"after": "a", "never": "b"},
    {"before": "c", "require": "a"},
    {"tool": "a", "at_most": 3},
    {"taint": "b", "never_into": "c", "match": "values"},
)
POLICY = Policy(
    id="p", tools=Tools(sequences=tuple(SequenceRule(name=f"s{place}", **one) for place, one in enumerate(RULES)))
)


def fresh(messages: list[BaseMessage], policy: Policy = POLICY) -> Past:
    """The past as somebody sees it who has never read anything."""
    return CallHistory().past(messages, policy)


def asking(*names: str, id: str = "ai") -> AIMessage:
    calls = [{"name": name, "args": {}, "id": f"{id}-{place}"} for place, name in enumerate(names)]
    return AIMessage("", tool_calls=calls, id=id)


def result(place: int, id: str = "ai", **fields: Any) -> ToolMessage:
    return ToolMessage("some text 4711", tool_call_id=f"{id}-{place}", id=f"{id}-r{place}", **fields)


def denied(past: Past, name: str) -> bool:
    return automaton_for(POLICY).decide(past.state, ToolCall(name)).action == "deny"


def test_what_was_refused_rejected_or_answered_by_a_person_was_not_made() -> None:
    for how in ("refused", "rejected", "responded", "ended"):
        answer = not_made("a", "ai-0", "no", how)
        past = fresh([HumanMessage("x"), asking("a"), answer, AIMessage("y")])
        assert not denied(past, "b")
        assert past.calls == ()
    assert denied(fresh([HumanMessage("x"), asking("a"), result(0), AIMessage("y")]), "b")


def test_calls_without_a_result_may_have_had_an_effect_and_have_not_succeeded() -> None:
    for messages in ([asking("a")], [asking("a"), HumanMessage("Hello?"), AIMessage("y")]):
        past = fresh([HumanMessage("x"), *messages])
        assert denied(past, "b")
        assert denied(past, "c")


def test_a_call_that_was_redirected_counts_as_both() -> None:
    past = fresh([HumanMessage("x"), asking("d"), result(0, name="a"), AIMessage("y")])
    assert denied(past, "b")
    assert not denied(past, "c")


def test_results_may_come_in_any_order_and_by_hand() -> None:
    messages = [SystemMessage("s"), asking("c", "a"), result(1), result(0), HumanMessage("x"), AIMessage("y")]
    assert [one.name for one in fresh(messages).calls] == ["c", "a"]


def test_the_refusal_of_a_repeated_id_is_not_the_result_of_the_first_call() -> None:
    twice = AIMessage("", tool_calls=[{"name": name, "args": {}, "id": "ai-0"} for name in ("a", "d")])
    answers = [result(0), not_made("d", "ai-0", "no", "refused", SAME_ID)]
    for messages in (answers, answers[::-1]):
        past = fresh([HumanMessage("x"), twice, *messages, AIMessage("y")])
        assert denied(past, "b")
        assert [one.name for one in past.calls] == ["a"]
        assert past.refusals == {("d", SAME_ID): 1}


def test_refusals_and_risk_are_those_of_the_run() -> None:
    risky = asking("d")
    mark = {"id": "ai-0", "name": "d", "verdict": "pass", "action": "allow", "policies": [], "risk": 0.4}
    risky.response_metadata[MARK] = {"calls": [mark]}
    run = [risky, result(0), asking("e", id="ai2"), not_made("e", "ai2-0", "no", "refused", "tool:e")]
    past = fresh([HumanMessage("x"), *run, AIMessage("y")])
    assert (past.risk, past.refusals) == (0.4, {("e", "tool:e"): 1})
    past = fresh([HumanMessage("x"), *run, AIMessage("y"), HumanMessage("z"), AIMessage("w")])
    assert (past.risk, past.refusals) == (0.0, {})


def test_what_a_tool_writes_is_no_new_turn_of_the_user() -> None:
    refused = not_made("e", "ai-0", "no", "refused", "tool:e")
    asked = [HumanMessage("x"), asking("e", "d")]
    for written in (
        [refused, result(1), HumanMessage("look")],
        [refused, AIMessage("sub"), HumanMessage("look"), result(1)],
    ):
        past = fresh([*asked, *written, asking("d", id="next")])
        assert past.refusals == {("e", "tool:e"): 1}
    for ending in ([AIMessage("y")], [asking("d", id="cut short")]):
        assert fresh([*asked, refused, result(1), *ending, HumanMessage("z")]).refusals == {}


def test_a_refusal_may_end_the_run_until_the_user_speaks() -> None:
    refused = not_made("e", "ai-0", "no", "refused", "tool:e", ends_run=True)
    messages = [HumanMessage("x"), asking("e"), refused]
    assert fresh(messages).run_is_over(100)
    assert not fresh([*messages, AIMessage("y"), HumanMessage("z")]).run_is_over(100)


@pytest.mark.parametrize(
    "between",
    [
        [AIMessage("The other agent says.", id="o")],
        [asking("d", id="o"), result(0, id="o")],
        [asking("d", id="o"), AIMessage("y", id="p"), HumanMessage("h", id="h2"), result(0, id="o")],
        [result(0, id="nobody"), AIMessage("The other agent says.", id="o")],
    ],
)
def test_a_result_answers_its_call_whatever_stands_between_them(between: list[BaseMessage]) -> None:
    """As a tool leaves it that puts messages of another agent into the state, also while others still run."""
    history = CallHistory()
    messages = [HumanMessage("x", id="h"), asking("b", "a"), *between, result(1), result(0), AIMessage("z", id="z")]
    for end in range(1, len(messages) + 1):
        past = history.past(messages[:end], POLICY)
        assert past == fresh(messages[:end])
    assert not denied(past, "c")
    assert automaton_for(POLICY).decide(past.state, ToolCall("c", '{"x": "some text 4711"}')).action == "deny"


def test_a_result_answers_the_newest_call_of_its_id() -> None:
    messages = [HumanMessage("x"), asking("a"), AIMessage("y"), asking("d"), result(0), AIMessage("z")]
    assert denied(fresh(messages), "c")


def test_a_guard_sees_the_newest_calls_only() -> None:
    messages: list[BaseMessage] = [HumanMessage("x")]
    for number in range(100):
        messages += [asking("d", id=f"ai{number}"), result(0, id=f"ai{number}")]
    assert len(fresh(messages).calls) == RECENT_CALLS


names = st.sampled_from(["a", "b", "c", "d"])
endings = st.sampled_from(["done", "error", "none", "refused", "apart", "late"])
steps = st.lists(st.tuples(st.lists(names, max_size=3), endings), max_size=8)


def _messages(steps: Any, seed: str) -> list[BaseMessage]:
    messages: list[BaseMessage] = [HumanMessage("x", id="h")]
    late: list[BaseMessage] = []
    for number, (called, ending) in enumerate(steps):
        id = f"{seed}{number}"
        messages.append(asking(*called, id=id))
        messages += late
        late = [result(place, id=id) for place in range(len(called))] if ending == "late" else []
        if ending == "apart":
            messages.append(AIMessage("y", id=f"apart{id}"))
        for place, name in enumerate(called):
            if ending == "refused":
                messages.append(not_made(name, f"{id}-{place}", "no", "refused", "x"))
            elif ending not in ("none", "late"):
                messages.append(result(place, id=id, status="error" if ending == "error" else "success"))
        if number % 3 == 2:
            messages.append(HumanMessage("x", id=f"h{id}"))
    return messages


@settings(max_examples=30)
@given(steps, st.lists(st.tuples(st.integers(0, 20), steps), max_size=5), st.booleans())
def test_going_back_and_on_along_another_branch_reads_that_branch(trunk: Any, branches: Any, copied: bool) -> None:
    """Whatever was read before, the past is that of the messages at hand, the same objects or equal ones."""
    history = CallHistory()
    messages = _messages(trunk, "t")
    for number, (back, further) in enumerate([(0, []), *branches]):
        messages = [*messages[: max(1, len(messages) - back)], *_messages(further, f"b{number}-")[1:]]
        if copied:
            messages = [message.model_copy(deep=True) for message in messages]
        for end in range(1, len(messages) + 1):
            assert history.past(messages[:end], POLICY) == fresh(messages[:end])
    assert history.before(messages, POLICY) == fresh(
        messages[: max(place for place, one in enumerate(messages) if isinstance(one, AIMessage))]
        if any(isinstance(one, AIMessage) for one in messages)
        else []
    )


def test_a_message_that_was_replaced_under_its_id_is_read_anew() -> None:
    history = CallHistory()
    before = [HumanMessage("x", id="h"), asking("a"), result(0), AIMessage("y", id="y"), AIMessage("z", id="z")]
    assert denied(history.past(before, POLICY), "b")
    after = [before[0], asking("d"), *before[2:]]
    assert not denied(history.past(after, POLICY), "b")


def test_no_more_conversations_are_remembered_than_said() -> None:
    history = CallHistory()
    for number in range(REMEMBERED + 20):
        history.past([HumanMessage("x", id=f"h{number}"), AIMessage("y")], POLICY)
    assert len(history._read) == REMEMBERED


def test_ten_thousand_calls_of_history() -> None:
    """A decision's history is read in less than a millisecond; this allows for a busy machine."""
    messages: list[BaseMessage] = [HumanMessage("x", id="h")]
    for number in range(10_000):
        messages += [asking("d", id=f"ai{number}"), result(0, id=f"ai{number}")]
    history = CallHistory()
    history.past(messages, POLICY)
    best = min(_took_s(history, [*messages, asking("a", id=f"new{number}")]) for number in range(5))
    assert best < 0.003


def _took_s(history: CallHistory, messages: list[BaseMessage]) -> float:
    began = time.process_time()
    history.past(messages, POLICY)
    return time.process_time() - began


SHOP = """
id: shop
tools:
  sequences:
    - {name: exfiltration, after: read_customer, never: http_post}
    - {name: verify-first, before: close_account, require: verify}
    - {name: few, tool: send_email, at_most: 2}
    - {name: paid, taint: issue_refund, never_into: read_customer}
  rules: [{tool: issue_refund, action: ask}]
limits: {refusals: 100}
"""
some_calls = st.sampled_from(
    [
        call("read_customer", customer="7"), call("http_post", url="a"), call("verify", who="x"),
        call("close_account", who="x"), call("send_email", to="x"), call("issue_refund", amount=1),
    ]
)  # fmt: skip


def violations(ran: list[str]) -> list[str]:
    """The rules of SHOP, read off the calls that really ran, in the order of their messages."""
    found = []
    for place, name in enumerate(ran):
        earlier = ran[:place]
        if name == "http_post" and "read_customer" in earlier:
            found.append("exfiltration")
        if name == "close_account" and "verify" not in earlier:
            found.append("verify-first")
        if name == "send_email" and earlier.count("send_email") >= 2:
            found.append("few")
    return found


@settings(max_examples=8)
@given(st.lists(st.lists(some_calls, min_size=1, max_size=3), max_size=4), st.lists(st.booleans(), max_size=20))
def test_no_history_that_an_agent_executes_violates_a_rule(turns: list[Any], approvals: list[bool]) -> None:
    async def run() -> None:
        shop = Shop(*turns, policy=SHOP, saver=InMemorySaver())
        state = await shop.says()
        while "__interrupt__" in state:
            count = len(state["__interrupt__"][0].value["action_requests"])
            answers = [APPROVE if approvals and approvals.pop() else {"type": "reject"} for _ in range(count)]
            state = await shop.decide(*answers)
        made = [one["name"] for message in state["messages"] if isinstance(message, AIMessage)
                for one in message.tool_calls if not _refused(state, message, one["id"])]  # fmt: skip
        assert violations(made) == []
        assert sorted(made) == sorted(name for name, _ in shop.box.ran)

    asyncio.run(run())


def _refused(state: Any, asking: AIMessage, call_id: str | None) -> bool:
    place = state["messages"].index(asking)
    after = next(
        one for one in state["messages"][place:] if isinstance(one, ToolMessage) and one.tool_call_id == call_id
    )
    return MARK in after.response_metadata and "call" in after.response_metadata[MARK]


async def test_the_rules_hold_over_turns_restarts_and_time_travel() -> None:
    saver = InMemorySaver()
    first = Shop([call("verify", who="x")], "Hi.", saver=saver, policy=SHOP)
    await first.says()
    before = (await first.agent.aget_state(THREAD)).config
    second = Shop([call("read_customer", customer="7")], "Hi.", saver=saver, policy=SHOP)
    await second.says()
    third = Shop([call("http_post", url="a")], "Hi.", saver=saver, policy=SHOP)
    await third.says()
    assert third.box.ran == []
    back = Shop([call("http_post", url="b")], "Hi.", saver=saver, policy=SHOP)
    state = await back.agent.ainvoke({"messages": [("user", "Again")]}, before)
    assert back.box.ran == [("http_post", "b")]
    assert results(state)[-1].text == "http_post b"


def test_random_policies_are_remembered_apart() -> None:
    messages = [HumanMessage("x", id="h"), asking("a"), result(0), AIMessage("y")]
    other = parse_policy("id: q\ntools: {sequences: [{name: s, tool: a, at_most: 1}]}")
    history = CallHistory()
    for policy in random.choices([POLICY, other], k=6):
        assert history.past(messages, policy) == fresh(messages, policy)
