"""People are asked about calls, in one interrupt for a message, and what they say is what happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import ValidationError

from guardmw.errors import ApprovalError
from guardmw.policy import parse_policy
from guardmw.policy.match import PolicySet
from guardmw.telemetry.tree import collect_spans
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware
from guardmw_langgraph.internals import asked_until_usable
from langgraph_world import CONSUMERS, MAIL, World
from toolbox import APPROVE, SHOP, THREAD, Shop, Toolbox, asked, call, calls, edit, results

REFUND = [call("issue_refund", amount=5)]


async def test_an_approved_call_is_made_as_it_was_shown() -> None:
    shop = Shop(REFUND)
    state = await shop.says()
    assert asked(state) == [{"name": "issue_refund", "args": {"amount": 5}}]
    assert shop.box.ran == []
    state = await shop.decide(APPROVE)
    assert shop.box.ran == [("issue_refund", 5)]
    assert state["messages"][-1].text == "Done."
    assert shop.model.calls == 2


async def test_the_request_looks_as_langchains_own() -> None:
    ours = (await Shop(REFUND).says())["__interrupt__"][0].value
    other = HumanInTheLoopMiddleware({"issue_refund": True})
    agent: Any = create_agent(
        ScriptedChatModel([REFUND]), [Toolbox().issue_refund], middleware=[other], checkpointer=InMemorySaver()
    )
    theirs = (await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD))["__interrupt__"][0].value
    assert ours.keys() == theirs.keys()
    for key in ("action_requests", "review_configs"):
        assert theirs[key][0].keys() <= ours[key][0].keys()
    assert ours["action_requests"][0]["args"] == theirs["action_requests"][0]["args"]
    assert ours["review_configs"][0]["allowed_decisions"] == theirs["review_configs"][0]["allowed_decisions"]


async def test_all_calls_of_a_message_are_asked_about_at_once() -> None:
    shop = Shop([*REFUND, call("verify", who="Ann"), call("issue_refund", amount=7), call("send_email", to="x")])
    state = await shop.says()
    assert [one["args"] for one in asked(state)] == [{"amount": 5}, {"amount": 7}]
    assert len(state["__interrupt__"]) == 1
    assert shop.box.ran == []
    state = await shop.decide({"type": "reject", "message": "Too early."}, APPROVE)
    assert sorted(shop.box.ran) == [("issue_refund", 7), ("verify", "Ann")]
    texts = {result.name: result.text for result in results(state) if result.status == "error"}
    assert "They say: Too early." in texts["issue_refund"]
    assert "was not called" in texts["send_email"]


async def test_a_person_may_answer_in_the_tools_place() -> None:
    shop = Shop(REFUND)
    await shop.says()
    state = await shop.decide({"type": "respond", "message": "It was paid yesterday."})
    assert (shop.box.ran, results(state)[0].text) == ([], "It was paid yesterday.")
    assert results(state)[0].status == "success"


async def test_an_edited_call_is_made_as_it_was_edited_and_the_state_says_so() -> None:
    shop = Shop(REFUND)
    await shop.says()
    state = await shop.decide(edit("issue_refund", amount=4, note="half"))
    assert shop.box.ran == [("issue_refund", 4)]
    assert calls(state) == [("issue_refund", {"amount": 4, "note": "half"})]


async def test_an_edited_call_is_judged_again() -> None:
    shop = Shop(REFUND)
    await shop.says()
    state = await shop.decide(edit("issue_refund", amount=4, note="XYZZY"))
    assert shop.box.ran == []
    assert "was not called" in results(state)[0].text
    assert "XYZZY" not in repr(state["messages"])


async def test_personal_data_in_an_edit_is_redacted() -> None:
    shop = Shop(REFUND, policy=SHOP + "detectors: {pii: {entities: [email]}}")
    await shop.says()
    state = await shop.decide(edit("issue_refund", amount=4, note=f"to {MAIL}"))
    assert calls(state) == [("issue_refund", {"amount": 4, "note": "to [EMAIL]"})]


REFUND_THEN_POST = SHOP.replace(
    "  sequences:", "  sequences:\n    - {name: last, after: issue_refund, never: http_post}"
)


async def test_a_rejected_call_is_no_history() -> None:
    shop = Shop(REFUND, [call("http_post", url="a")], policy=REFUND_THEN_POST)
    await shop.says()
    await shop.decide({"type": "reject"})
    assert shop.box.ran == [("http_post", "a")]


async def test_of_a_call_that_waits_for_a_person_the_agent_is_told_so() -> None:
    post = [call("http_post", url="a")]
    shop = Shop([*REFUND, *post], post, policy=REFUND_THEN_POST)
    await shop.says()
    state = await shop.decide({"type": "reject"})
    assert "depends on 'issue_refund', about which a person decides first" in repr(results(state))
    assert "stays closed" not in repr(results(state))
    assert shop.box.ran == [("http_post", "a")]
    shop = Shop([call("read_customer", customer="7"), *REFUND, *post], policy=REFUND_THEN_POST)
    await shop.says()
    state = await shop.decide({"type": "reject"})
    assert "'http_post' may not be called after 'read_customer'" in repr(results(state))


async def test_an_asked_call_counts_for_those_listed_after_it() -> None:
    shop = Shop([*REFUND, call("http_post", url="a")], policy=REFUND_THEN_POST)
    await shop.says()
    await shop.decide(APPROVE)
    assert shop.box.ran == [("issue_refund", 5)]


BAD_ANSWERS: list[tuple[Any, str]] = [
    ({"decisions": []}, "0 decisions came back for 1 calls"),
    ({"decisions": [APPROVE, APPROVE]}, "2 decisions came back for 1 calls"),
    ({"decision": "approve"}, "an object with the keys"),
    ("approve", "no object"),
    ({"decisions": [{"type": "maybe"}]}, "the type 'maybe'"),
    ({"decisions": ["approve"]}, "the type None"),
    ({"decisions": [{"type": "edit"}]}, "is no call"),
    ({"decisions": [edit("issue_refund", amount="much")]}, """'amount': "much" is not of type "integer\""""),
    ({"decisions": [edit("issue_refund", amount=True)]}, """'amount': true is not of type "integer\""""),
    ({"decisions": [edit("issue_refund")]}, '"amount" is a required property'),
    ({"decisions": [edit("issue_refund", amount=1, to="me")]}, "'to' was unexpected"),
    ({"decisions": [edit("http_post", url="a")]}, "names another tool"),
    ({"decisions": [{"type": "respond"}]}, "no text under `message`"),
    ({"decisions": [{"type": "reject", "message": 3}]}, "no text under `message`"),
]


@pytest.mark.parametrize(("answer", "complaint"), BAD_ANSWERS)
async def test_an_answer_that_cannot_be_used_says_why_and_can_be_given_again(answer: Any, complaint: str) -> None:
    shop = Shop(REFUND)
    await shop.says()
    with pytest.raises(ValidationError, match="the answer about tool calls can't be used") as raised:
        await shop.agent.ainvoke(Command(resume=answer), THREAD)
    assert complaint in str(raised.value)
    assert shop.box.ran == []
    await shop.decide(APPROVE)
    assert shop.box.ran == [("issue_refund", 5)]


async def test_where_every_answer_is_kept_a_bad_one_is_asked_about_again() -> None:
    """LangGraph before `response_schema`: the node is left with the bad answer each time it runs anew."""
    used: list[Any] = []

    def check(answer: Any) -> None:
        if answer != "yes":
            raise ApprovalError(f"the answer {answer!r} is no yes", "say yes")

    async def node(state: MessagesState) -> None:
        used.append(asked_until_usable({"action_requests": ["pay"]}, check))

    graph: Any = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
    graph = graph.compile(checkpointer=InMemorySaver())
    first = await graph.ainvoke({"messages": []}, THREAD)
    assert first["__interrupt__"][0].value == {"action_requests": ["pay"]}
    for answer in ("no", "never"):
        state = await graph.ainvoke(Command(resume=answer), THREAD)
        request = state["__interrupt__"][0].value
        assert (request["action_requests"], repr(answer) in request["problem"]) == (["pay"], True)
    await graph.ainvoke(Command(resume="yes"), THREAD)
    assert used == ["yes"]


async def test_an_interrupt_resumed_twice_makes_the_call_once() -> None:
    shop = Shop(REFUND)
    await shop.says()
    await shop.decide(APPROVE)
    state = await shop.decide({"type": "reject"})
    assert shop.box.ran == [("issue_refund", 5)]
    assert state["messages"][-1].text == "Done."
    assert [one.approval for one in shop.recorder.decisions if one.approval] == ["approve"]


async def test_without_a_checkpointer_the_call_is_withheld_and_the_agent_told_why() -> None:
    shop = Shop(REFUND, saver=False)
    state = await shop.agent.ainvoke({"messages": [("user", "Hello")]})
    assert shop.box.ran == []
    assert "runs without a checkpointer" in results(state)[0].text
    assert calls(state) == [("issue_refund", {})]


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        ("    - {tool: issue_refund, action: deny}", [("verify", "Ann")]),
        ("    - {tool: verify, action: deny}", [("issue_refund", 5)]),
        ("    - {tool: verify, action: ask}", [("issue_refund", 5)]),
        ("    - {tool: nothing, action: deny}", [("issue_refund", 5), ("verify", "Ann")]),
    ],
)
async def test_after_a_change_of_the_policy_the_calls_are_judged_again(change: str, ran: list[Any]) -> None:
    """What the new policy denies is refused whatever a person said; what it asks about and nobody was asked about is
    refused until the agent calls it again."""
    before = parse_policy(SHOP)
    after = parse_policy(SHOP.replace("  rules:\n", f"  rules:\n{change}\n"))
    policies = PolicySet([before])
    saver, box = InMemorySaver(), Toolbox()
    turn = [*REFUND, call("verify", who="Ann")]
    first = Shop(turn, saver=saver, box=box, middleware=GuardMiddleware(policies, guard=FakeGuard("XYZZY")))
    await first.says()
    second = Shop(saver=saver, box=box, middleware=GuardMiddleware(PolicySet([after]), guard=FakeGuard("XYZZY")))
    state = await second.decide(
        APPROVE,
    )
    assert sorted(box.ran) == ran
    assert state["messages"][-1].text == "Done."


async def test_a_policy_that_changed_after_the_answer_holds_when_the_tool_is_to_run() -> None:
    saver, box = InMemorySaver(), Toolbox()
    first = Shop([call("verify", who="Ann")], saver=saver, box=box)
    graph: Any = create_agent(
        first.model, box.tools(), middleware=[first.middleware], checkpointer=saver, interrupt_before=["tools"]
    )
    await graph.ainvoke({"messages": [("user", "Hello")]}, THREAD)
    denying = SHOP.replace("  rules:\n", "  rules:\n    - {tool: verify, action: deny}\n")
    second = Shop(saver=saver, box=box, policy=denying)
    state = await second.agent.ainvoke(None, THREAD)
    assert box.ran == []
    assert "was not called" in results(state)[0].text


def test_an_answer_is_recorded_and_seen_in_telemetry() -> None:
    shop = Shop(REFUND)
    asyncio.run(shop.says())
    with collect_spans() as collected:
        asyncio.run(shop.decide({"type": "reject", "message": "No."}))
    (answer,) = [one for one in shop.recorder.decisions if one.approval]
    assert (answer.approval, answer.action, answer.verdict.guard) == ("reject", "block", "person")
    assert "No." in answer.why
    (span,) = [span for span in collected.spans if span.name == "apply_guardrail person"]
    assert dict(span.attributes or {})["guardmw.approval"] == "reject"


async def test_going_back_in_time_a_call_can_be_decided_otherwise() -> None:
    shop = Shop(REFUND, "Done.", "Done.", policy=REFUND_THEN_POST)
    await shop.says()
    waiting = await shop.agent.aget_state(THREAD)
    await shop.decide(APPROVE)
    fork = await shop.agent.aupdate_state(waiting.config, None, as_node="model")  # without the answer given there
    assert asked(await shop.agent.ainvoke(None, fork))
    again = await shop.decide({"type": "reject"})
    assert [message.type for message in again["messages"]] == ["human", "ai", "tool", "ai"]
    assert results(again)[0].status == "error"


@pytest.mark.parametrize(
    "how", ["ainvoke", "astream messages", "astream all", "astream_events v2", "astream_events v3"]
)
async def test_however_it_is_consumed_the_call_waits(how: str) -> None:
    world = World()
    shop = Shop(REFUND, saver=world.saver)
    await CONSUMERS[how](shop.agent, {"messages": [("user", "Hello")]}, world.config)
    assert shop.box.ran == []
    await CONSUMERS[how](shop.agent, Command(resume={"decisions": [APPROVE]}), world.config)
    assert shop.box.ran == [("issue_refund", 5)]


@pytest.mark.parametrize("how", ["invoke", "stream all, subgraphs", "stream_events v3"])
async def test_synchronous_agents_ask_too(how: str) -> None:
    ran = []

    def pay(amount: int) -> str:
        """Pays."""
        ran.append(amount)
        return "paid"

    world = World()
    policy = parse_policy("id: p\ntools: {default: ask}")
    agent = create_agent(
        ScriptedChatModel([[call("pay", amount=5)], "Done."]), [pay],
        middleware=[GuardMiddleware(policy, guard="detectors")], checkpointer=world.saver,
    )  # fmt: skip
    await CONSUMERS[how](agent, {"messages": [("user", "Hello")]}, world.config)
    assert ran == []
    await CONSUMERS[how](agent, Command(resume={"decisions": [edit("pay", amount=4)]}), world.config)
    assert ran == [4]


async def test_another_process_answers(tmp_path: Any) -> None:
    """A middleware, a model and a checkpointer of their own, with nothing left of the first but the database."""
    box = Toolbox()
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        await Shop([call("read_customer", customer="7")], REFUND, saver=saver, box=box).says()
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        shop = Shop([call("http_post", url="a")], saver=saver, box=box)
        with pytest.raises(ValidationError, match="is not of type"):
            await shop.decide(edit("issue_refund", amount="x"))
        await shop.decide(edit("issue_refund", amount=3))
    assert box.ran == [("read_customer", "7"), ("issue_refund", 3)]


async def test_langchains_own_approval_beside_it_and_its_edits_are_judged() -> None:
    box = Toolbox()
    guard = GuardMiddleware(parse_policy(SHOP), guard=FakeGuard("XYZZY"))
    agent: Any = create_agent(
        ScriptedChatModel([[call("verify", who="Ann"), call("http_post", url="a")], "Done."]), box.tools(),
        middleware=[HumanInTheLoopMiddleware({"verify": True, "http_post": True}), guard], checkpointer=InMemorySaver(),
    )  # fmt: skip
    await agent.ainvoke({"messages": [HumanMessage("Hello")]}, THREAD)
    state = await agent.ainvoke(
        Command(resume={"decisions": [edit("verify", who="XYZZY"), edit("http_post", url="b")]}), THREAD
    )
    assert box.ran == [("http_post", "b")]
    assert isinstance(state["messages"][-1], AIMessage)


async def test_two_guards_ask_once_each_message_and_either_may_refuse() -> None:
    class Second(GuardMiddleware):
        pass

    box = Toolbox()
    strict = parse_policy("id: strict\ntools: {rules: [{tool: http_post, action: deny}]}")
    middleware = [GuardMiddleware(parse_policy(SHOP), guard="detectors"), Second(strict, guard="detectors")]
    turn = [*REFUND, call("http_post", url="a"), call("verify", who="Ann")]
    agent: Any = create_agent(
        ScriptedChatModel([turn, "Done."]), box.tools(), middleware=middleware, checkpointer=InMemorySaver()
    )
    state = await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD)
    assert len(asked(state)) == 1
    await agent.ainvoke(Command(resume={"decisions": [APPROVE]}), THREAD)
    assert sorted(box.ran) == [("issue_refund", 5), ("verify", "Ann")]


async def test_nobody_is_asked_about_what_another_guard_refuses() -> None:
    class Second(GuardMiddleware):
        pass

    box = Toolbox()
    strict = parse_policy("id: strict\ntools: {rules: [{tool: issue_refund, action: deny}]}")
    middleware = [GuardMiddleware(parse_policy(SHOP), guard="detectors"), Second(strict, guard="detectors")]
    agent: Any = create_agent(
        ScriptedChatModel([REFUND, "Done."]), box.tools(), middleware=middleware, checkpointer=InMemorySaver()
    )
    state = await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD)
    assert (asked(state), box.ran) == ([], [])
    assert "was not called" in results(state)[0].text


async def test_many_threads_keep_apart() -> None:
    shop = Shop(*[REFUND] * 8)
    threads: list[Any] = [{"configurable": {"thread_id": str(number)}} for number in range(8)]
    hello = {"messages": [("user", "Hello")]}
    states = await asyncio.gather(*(shop.agent.ainvoke(hello, thread) for thread in threads))
    assert all(asked(state) for state in states)
    assert shop.box.ran == []
