"""A refused call is answered so that the agent can go on, a bounded number of times, and nobody sees what it was."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.tools import InjectedState, ToolRuntime
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.tools import BaseTool, tool
from langgraph.types import Command

from guardmw.policy import parse_policy
from guardmw.testing import FakeGuard
from guardmw.types import Check, Decision, ToolCall, Verdict
from guardmw_langgraph import guard_tools
from guardmw_langgraph.callmarks import call_state, digest_of
from guardmw_langgraph.held import redacted
from langgraph_world import CONSUMERS, World, assert_unheard
from toolbox import SHOP, THREAD, Shop, call, calls, results


async def test_the_agent_is_told_why_and_what_would_be_allowed_and_goes_on() -> None:
    shop = Shop([call("send_email", to="me@evil.example")], [call("send_email", to="ann@shop.example")])
    state = await shop.says()
    refused, sent = results(state)
    assert refused.status == "error"
    assert "'send_email' was not called" in refused.text
    assert r"'to' must match '@shop\\.example$'" in refused.text
    assert (sent.text, shop.box.ran) == ("send_email ann@shop.example", [("send_email", "ann@shop.example")])
    assert state["messages"][-1].text == "Done."
    assert shop.model.prompts[1][-1].text == refused.text


async def test_a_guards_refusal_says_what_its_category_allows() -> None:
    state = await Shop([call("verify", who="XYZZY")]).says()
    assert "It says other words." in results(state)[0].text


async def test_what_was_refused_is_seen_by_nobody() -> None:
    for how in ("ainvoke", "astream all", "astream_events v2", "astream_events v3"):
        world = World()
        shop = Shop([call("verify", who="Ann"), call("verify", who="it is XYZZY")], saver=world.saver)
        seen = repr(await CONSUMERS[how](shop.agent, {"messages": [("user", "Hello")]}, world.config))
        assert_unheard("XYZZY", seen, world)
        assert shop.box.ran == [("verify", "Ann")]


async def test_parallel_calls_are_taken_in_their_listed_order() -> None:
    shop = Shop(
        [call("http_post", url="a"), call("read_customer", customer="7"), call("http_post", url="b")],
        [call("close_account", who="Ann"), call("verify", who="Ann")],
        [call("close_account", who="Ann")],
    )
    state = await shop.says()
    ran = [name for name, _ in shop.box.ran]
    assert ran == ["http_post", "read_customer", "verify", "close_account"]
    assert [result.status for result in results(state)].count("error") == 2


async def test_a_call_that_has_not_returned_yet_fulfils_no_requirement() -> None:
    """Calls of one message run at the same time: the second would run before the first one is known to succeed."""
    shop = Shop([call("verify", who="Ann"), call("close_account", who="Ann")], [call("close_account", who="Ann")])
    await shop.says()
    assert shop.box.ran == [("verify", "Ann"), ("close_account", "Ann")]


async def test_what_failed_fulfils_no_requirement_and_still_bars_what_comes_after() -> None:
    shop = Shop(
        [call("read_customer", customer="7")],
        [call("http_post", url="a")],
        [call("verify", who="Ann")],
        [call("close_account", who="Ann")],
    )
    shop.box.fails = {"read_customer", "verify"}
    shop.agent = _catching(shop)
    await shop.says()
    assert [name for name, _ in shop.box.ran] == ["read_customer", "verify"]


def _catching(shop: Shop) -> Any:
    """The agent of `shop` with tools that tell of their errors instead of ending the run."""
    from langchain.agents import create_agent
    from langchain_core.tools import StructuredTool, ToolException

    def tool(function: Any) -> StructuredTool:
        async def run(**arguments: Any) -> str:
            try:
                return str(await function(**arguments))
            except ValueError as error:
                raise ToolException(str(error)) from error

        made = StructuredTool.from_function(coroutine=function, handle_tool_error=True)
        return made.model_copy(update={"coroutine": run})

    return create_agent(shop.model, [tool(one) for one in shop.box.tools()], middleware=[shop.middleware])


async def test_the_same_refusal_again_and_again_ends_the_run() -> None:
    shop = Shop(*[[call("send_email", to=f"{place}@evil.example")] for place in range(5)])
    state = await shop.says()
    assert (shop.model.calls, len(results(state))) == (3, 3)
    assert state["messages"][-1].text == shop.policy.messages.blocked
    assert state["messages"][-1].response_metadata["guardmw"]["action"] == "block"


async def test_many_refusals_in_one_message_count_once_and_a_new_turn_begins_anew() -> None:
    bad = [call("send_email", to="x@evil.example"), call("send_email", to="y@evil.example")]
    shop = Shop(bad, bad, "I can't.", bad, bad, "I can't.")
    for _ in range(2):
        state = await shop.says()
        assert state["messages"][-1].text == "I can't."
    assert shop.model.calls == 6


async def test_different_refusals_are_counted_apart() -> None:
    turns = [[call("send_email", to="x")], [call("verify", who="XYZZY")]] * 2
    state = await Shop(*turns).says()
    assert state["messages"][-1].text == "Done."


class _Giving(AgentMiddleware[Any, Any, Any]):
    """Gives every call other arguments on its way to the tool."""

    def __init__(self, **args: Any) -> None:
        super().__init__()
        self.args = args

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(tool_call={**request.tool_call, "args": self.args}))

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(tool_call={**request.tool_call, "args": self.args}))


@pytest.mark.parametrize(("on_block", "count"), [("tell", 3), ("terminate", 1)])
async def test_calls_refused_just_before_they_run_end_it_too(on_block: str, count: int) -> None:
    shop = Shop(*[[call("send_email", to="a@shop.example")]] * 5, policy=f"{SHOP}  on_block: {on_block}\n")
    middleware = [_Giving(to="x@evil.example"), shop.middleware]
    agent: Any = create_agent(shop.model, shop.box.tools(), middleware=middleware)
    state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert (shop.model.calls, len(results(state)), shop.box.ran) == (count, count, [])
    assert state["messages"][-1].text == shop.policy.messages.blocked
    state = await agent.ainvoke({"messages": [*state["messages"], ("user", "And now?")]})
    assert shop.model.calls > count


@pytest.mark.parametrize("how", ["ainvoke", "invoke"])
@pytest.mark.parametrize(
    ("to", "ran"),
    [("x@evil.example", []), ("b@shop.example", ["b@shop.example"]), ("jane.doe@shop.example", ["[EMAIL]"])],
)
def test_a_call_that_a_middleware_inside_the_guard_rewrote_is_judged_as_it_runs(
    how: str, to: str, ran: list[Any]
) -> None:
    shop = Shop([call("send_email", to="a@shop.example", text="Hi")], policy=SHOP + PII if "jane" in to else SHOP)
    sent: list[str] = []

    def send_email(to: str, runtime: ToolRuntime, text: str = "") -> str:
        """Mails."""
        sent.append(to)
        return "sent"

    agent: Any = create_agent(shop.model, [send_email], middleware=[shop.middleware, _Giving(to=to)])
    given = {"messages": [("user", "Hello")]}
    state = asyncio.run(agent.ainvoke(given)) if how == "ainvoke" else agent.invoke(given)
    assert sent == ran
    (answer,) = results(state)
    assert answer.text == "sent" if ran else "'to' must match" in answer.text
    assert ran or call_state(answer) == "refused"


class _Swapping(AgentMiddleware[Any, Any, Any]):
    """Lets another tool make every call."""

    def __init__(self, tool: BaseTool, *, assigned: bool = False) -> None:
        super().__init__()
        self.tool, self.assigned = tool, assigned

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        if not self.assigned:
            return await handler(request.override(tool=self.tool))
        with pytest.deprecated_call():
            request.tool = self.tool
        return await handler(request)


@pytest.mark.parametrize("assigned", [False, True])
async def test_a_tool_that_a_middleware_inside_the_guard_puts_in_anothers_place_is_judged(assigned: bool) -> None:
    ran = []

    @tool
    def close_account(to: str) -> str:
        """Closes it."""
        ran.append(to)
        return "closed"

    shop = Shop([call("send_email", to="a@shop.example")])
    middleware = [shop.middleware, _Swapping(close_account, assigned=assigned)]
    agent: Any = create_agent(shop.model, shop.box.tools(), middleware=middleware)
    state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert (ran, shop.box.ran) == ([], [])
    assert "'close_account' was not called" in results(state)[0].text


async def test_what_a_tool_writes_that_no_node_knows_is_judged() -> None:
    @tool
    async def look_up(who: str, runtime: ToolRuntime) -> str:
        """Looks somebody up."""
        runtime.stream_writer(f"{who} is jane.doe@shop.example")
        return "done"

    shop = Shop([call("look_up", who="Ann")], policy=SHOP + PII)
    agent: Any = create_agent(shop.model, shop.box.tools(), middleware=[shop.middleware, _Swapping(look_up)])
    written = [part async for part in agent.astream({"messages": [("user", "Hello")]}, stream_mode="custom")]
    assert "".join(written) == "Ann is [EMAIL]"


async def test_tools_of_guard_tools_are_no_way_past_it() -> None:
    shop = Shop([call("send_email", to="a@shop.example")])
    inner = guard_tools(shop.box.tools(), parse_policy("id: inner"), guard=FakeGuard())
    agent: Any = create_agent(shop.model, inner, middleware=[shop.middleware, _Giving(to="x@evil.example")])
    state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert shop.box.ran == []
    assert "'to' must match" in results(state)[0].text


async def test_what_no_middleware_changed_is_judged_once_whatever_is_injected() -> None:
    shop = Shop([call("send_email", to="a@shop.example", state={})])

    async def send_email(to: str, state: Annotated[dict[str, Any], InjectedState], runtime: ToolRuntime) -> str:
        """Mails."""
        return f"sent after {len(state['messages'])}"

    agent: Any = create_agent(shop.model, [send_email], middleware=[shop.middleware])
    state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert results(state)[0].text == "sent after 2"
    assert [one.check.surface for one in shop.recorder.decisions].count("tool_call") == 1


@pytest.mark.parametrize(
    "ending",
    ["    - {tool: send_email, args: {to: {pattern: '@shop$'}}, on_block: terminate}", "  on_block: terminate"],
)
async def test_a_policy_may_end_the_run_at_once(ending: str) -> None:
    text = SHOP.replace("  rules:\n", f"  rules:\n{ending}\n") if "tool:" in ending else SHOP + ending
    shop = Shop([call("verify", who="Ann"), call("send_email", to="x")], policy=text)
    state = await shop.says()
    assert shop.model.calls == 1
    assert shop.box.ran == []
    assert ["was ended" in result.text for result in results(state)].count(True) == 1
    assert state["messages"][-1].text == shop.policy.messages.blocked
    state = await shop.says("And now?")
    assert state["messages"][-1].text == "Done."


async def test_arguments_that_are_no_object_are_refused_and_the_agent_goes_on() -> None:
    broken = AIMessageChunk(
        content="", tool_call_chunks=[tool_call_chunk(name="verify", args="[1, 2", id="c1", index=0)]
    )
    shop = Shop([broken], [call("verify", who="Ann")])
    state = await shop.says()
    assert "one JSON object" in results(state)[0].text
    assert shop.box.ran == [("verify", "Ann")]


async def test_arguments_that_are_nested_too_deep_are_no_json_object() -> None:
    deep = '{"who": ' + "[" * 3000 + "]" * 3000 + "}"
    broken = AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name="verify", args=deep, id="c1", index=0)])
    shop = Shop([broken], [call("verify", who="Ann")])
    state = await shop.says()
    assert "one JSON object" in results(state)[0].text
    assert shop.box.ran == [("verify", "Ann")]
    call_as_written = ToolCall("verify", deep)
    assert digest_of(call_as_written) != digest_of(ToolCall("verify", deep + " "))
    decision = Decision(Check("tool_call", "", "a"), Verdict(), "redact", "", "enforce", ())
    assert redacted(call_as_written, decision) is None


async def test_a_call_id_given_twice_runs_once() -> None:
    shop = Shop([call("verify", who="Ann", id="c1"), call("verify", who="Bob", id="c1")])
    state = await shop.says()
    assert shop.box.ran == [("verify", "Ann")]
    assert calls(state) == [("verify", {"who": "Ann"})]
    assert "earlier call" in next(one for one in shop.recorder.decisions if one.action == "block").why


async def test_a_call_id_of_an_earlier_message_is_a_call_of_its_own() -> None:
    shop = Shop([call("verify", who="Ann", id="c1")], [call("close_account", who="Ann", id="c1")])
    await shop.says()
    assert shop.box.ran == [("verify", "Ann"), ("close_account", "Ann")]


async def test_a_tool_that_nobody_has_is_answered_by_the_agent_itself() -> None:
    shop = Shop([call("frobnicate", x=1)], [call("verify", who="Ann")])
    state = await shop.says()
    assert "not a valid tool" in results(state)[0].text
    assert shop.box.ran == [("verify", "Ann")]


async def test_a_refused_tool_that_nobody_has_loses_its_name_and_the_agent_goes_on() -> None:
    for how in ("ainvoke", "astream all", "astream_events v2", "astream_events v3"):
        world = World()
        shop = Shop([call("XYZZY", x=1, id="c1"), call("verify", who="Ann")], saver=world.saver)
        seen = repr(await CONSUMERS[how](shop.agent, {"messages": [("user", "Hello")]}, world.config))
        assert_unheard("XYZZY", seen, world)
        assert shop.box.ran == [("verify", "Ann")]
        state = (await shop.agent.aget_state(world.config)).values
        assert calls(state) == [("unknown_tool", {}), ("verify", {"who": "Ann"})]
        assert "no tool of the name that was called. Call one of these: read_customer, " in results(state)[0].text
        assert state["messages"][-1].text == "Done."


@pytest.mark.parametrize("default", ["deny", "ask"])
async def test_nobody_is_asked_about_a_tool_that_nobody_has(default: str) -> None:
    shop = Shop(
        *[[call(f"frobnicate_{place}", id="c")] for place in range(5)], policy=SHOP.replace("check", default, 1)
    )
    state = await shop.says()
    assert "__interrupt__" not in state
    assert "frobnicate" not in repr(state["messages"])
    assert (shop.model.calls, state["messages"][-1].text) == (3, shop.policy.messages.blocked)


BUDGET = SHOP.replace("tools:\n", "tools:\n  risk_budget: 1.0\n")


async def test_the_risk_of_a_run_adds_up_until_a_person_is_asked() -> None:
    guard = FakeGuard(lambda text: 0.4 if "verify(" in text else 0.0)
    shop = Shop(*[[call("verify", who=str(place))] for place in range(3)], "Go on?", policy=BUDGET, guard=guard)
    state = await shop.says()
    assert [value for _, value in shop.box.ran] == ["0", "1"]
    assert (
        "risk budget of this run is spent: 0.80 + 0.40 > 1"
        in state["__interrupt__"][0].value["action_requests"][0]["description"]
    )
    state = await shop.decide({"type": "approve"})
    assert [value for _, value in shop.box.ran] == ["0", "1", "2"]


async def test_a_new_turn_of_the_user_has_a_new_budget() -> None:
    guard = FakeGuard(lambda text: 0.4 if "verify(" in text else 0.0)
    turns = [[call("verify", who="a")], [call("verify", who="b")], "Done."]
    shop = Shop(*turns, *turns, policy=BUDGET, guard=guard)
    for _ in range(2):
        state = await shop.says()
        assert "__interrupt__" not in state
    assert len(shop.box.ran) == 4


async def test_parallel_calls_share_the_budget() -> None:
    guard = FakeGuard(lambda text: 0.4 if "verify(" in text else 0.0)
    shop = Shop([call("verify", who=str(place)) for place in range(3)], policy=BUDGET, guard=guard)
    state = await shop.says()
    assert [one["args"] for one in state["__interrupt__"][0].value["action_requests"]] == [{"who": "2"}]
    assert shop.box.ran == []


async def test_calls_that_somebody_wrote_into_the_state_share_the_budget() -> None:
    guard = FakeGuard(lambda text: 0.4 if "verify(" in text else 0.0)
    shop = Shop("Hello.", policy=BUDGET, guard=guard)
    await shop.says()
    written = AIMessage("", tool_calls=[call("verify", who=str(place), id=str(place)) for place in range(4)])
    config = await shop.agent.aupdate_state(THREAD, {"messages": [HumanMessage("x"), written]}, as_node="model")
    state = await shop.agent.ainvoke(None, config)
    assert sorted(value for _, value in shop.box.ran) == ["0", "1"]
    assert ["nobody was asked about it" in one.text for one in results(state)].count(True) == 2


async def test_calls_that_somebody_wrote_into_the_state_are_judged_before_they_run() -> None:
    shop = Shop("Hello.")
    await shop.says()
    wanted = [call("http_post", url="a", id="c9"), call("read_customer", customer="7", id="c8")]
    written = AIMessage("", tool_calls=[*wanted, call("http_post", url="b", id="c7")])
    config = await shop.agent.aupdate_state(THREAD, {"messages": [HumanMessage("x"), written]}, as_node="model")
    state = await shop.agent.ainvoke(None, config)
    assert [name for name, _ in shop.box.ran] == ["http_post", "read_customer"]
    assert isinstance(results(state)[-1], ToolMessage)


async def test_shadow_mode_records_and_changes_nothing() -> None:
    shop = Shop(
        [call("send_email", to="x@evil.example"), call("issue_refund", amount=3)], policy=f"{SHOP}\nmode: shadow"
    )
    state = await shop.says()
    assert shop.box.ran == [("send_email", "x@evil.example"), ("issue_refund", 3)]
    assert "__interrupt__" not in state
    assert [one.action for one in shop.recorder.decisions if one.check.surface == "tool_call"] == ["block", "ask"]


async def test_shadow_mode_makes_both_calls_of_one_id() -> None:
    twice = [call("verify", who="Ann", id="c1"), call("verify", who="Bob", id="c1")]
    shop = Shop(twice, policy=f"{SHOP}\nmode: shadow")
    await shop.says()
    assert shop.box.ran == [("verify", "Ann"), ("verify", "Bob")]
    assert "earlier call" in next(one for one in shop.recorder.decisions if one.action == "block").why


def _paused(shop: Shop, *others: AgentMiddleware[Any, Any, Any]) -> Any:
    """The agent of `shop` with `others` before its guard; it stops before its tools run."""
    middleware = [*others, shop.middleware]
    tools = shop.box.tools()
    return create_agent(shop.model, tools, middleware=middleware, checkpointer=shop.saver, interrupt_before=["tools"])


async def _change(agent: Any, **args: Any) -> None:
    """Gives the first call of the newest message other arguments, as somebody who edits the state does."""
    asking = (await agent.aget_state(THREAD)).values["messages"][-1]
    changed = [{**asking.tool_calls[0], "args": args}, *asking.tool_calls[1:]]
    await agent.aupdate_state(THREAD, {"messages": [asking.model_copy(update={"tool_calls": changed})]})


@pytest.mark.parametrize(("url", "ran"), [("XYZZY", []), ("b", [("http_post", "b")])])
async def test_a_call_that_was_changed_in_the_state_is_judged_as_it_stands_there(url: str, ran: list[Any]) -> None:
    shop = Shop([call("http_post", url="a")])
    agent = _paused(shop)
    await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD)
    await _change(agent, url=url)
    await agent.ainvoke(None, THREAD)
    assert shop.box.ran == ran
    judged = [one.check.content for one in shop.recorder.decisions if one.check.surface == "tool_call"]
    assert judged == ['http_post({"url": "a"})', f'http_post({{"url": "{url}"}})']


class _Rewriting(AgentMiddleware[Any, Any, Any]):
    """Gives every call of the model another argument."""

    def __init__(self, name: str, value: str) -> None:
        super().__init__()
        self.given = {name: value}

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        message = state["messages"][-1]
        calls = [{**one, "args": {**one["args"], **self.given}} for one in message.tool_calls]
        return {"messages": [message.model_copy(update={"tool_calls": calls})]} if calls else None


@pytest.mark.parametrize("before", [False, True])
async def test_a_call_that_another_middleware_rewrote_is_judged_as_it_runs(before: bool) -> None:
    for to, ran in (("x@evil.example", []), ("b@shop.example", [("send_email", "b@shop.example")])):
        shop = Shop([call("send_email", to="a@shop.example")])
        rewriting = _Rewriting("to", to)
        middleware = [shop.middleware, rewriting] if before else [rewriting, shop.middleware]
        agent: Any = create_agent(shop.model, shop.box.tools(), middleware=middleware)
        state = await agent.ainvoke({"messages": [("user", "Hello")]})
        assert shop.box.ran == ran
        assert ran or "'to' must match" in results(state)[0].text


async def test_an_approval_is_for_the_call_that_was_shown() -> None:
    for when in ("while asked", "after approval"):
        shop = Shop([call("issue_refund", amount=5)])
        agent = _paused(shop)
        await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD)
        if when == "while asked":
            await _change(agent, amount=99999)
        await agent.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
        if when == "after approval":
            await _change(agent, amount=99999)
        state = await agent.ainvoke(None, THREAD)
        assert shop.box.ran == []
        assert "nobody was asked about it as it is now" in results(state)[0].text


async def test_a_redacted_call_is_the_one_that_was_judged() -> None:
    shop = Shop([call("verify", who="jane.doe@example.com")], policy=SHOP + PII)
    await shop.says()
    assert shop.box.ran == [("verify", "[EMAIL]")]
    assert [one.check.surface for one in shop.recorder.decisions].count("tool_call") == 1


PII = "detectors: {pii: {entities: [email], action: redact}}\n"


async def test_a_refused_call_is_no_history_for_one_that_is_judged_late() -> None:
    few = SHOP + "    - {name: few-mails, tool: send_email, at_most: 1}\n"
    for first, ran in (("x@evil.example", ["b@shop.example"]), ("a@shop.example", ["a@shop.example"])):
        shop = Shop([call("send_email", to=first, id="1"), call("verify", who="Ann", id="2")], policy=few)
        agent = _paused(shop)
        await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD)
        asking = next(one for one in (await agent.aget_state(THREAD)).values["messages"] if one.type == "ai")
        mail = {**asking.tool_calls[1], "name": "send_email", "args": {"to": "b@shop.example"}}
        changed = asking.model_copy(update={"tool_calls": [asking.tool_calls[0], mail]})
        await agent.aupdate_state(THREAD, {"messages": [changed]}, as_node="GuardMiddleware.after_model")
        await agent.ainvoke(None, THREAD)
        assert [to for _, to in shop.box.ran] == ran


async def test_calls_alike_in_everything_stand_for_one_decision() -> None:
    """Somebody wrote the same call into the state twice: what was decided holds for one of them."""
    shop = Shop([call("http_post", url="a", id="1")], policy=SHOP + "    - {name: one, tool: http_post, at_most: 1}\n")
    agent = _paused(shop)
    await agent.ainvoke({"messages": [("user", "Hello")]}, THREAD)
    asking = (await agent.aget_state(THREAD)).values["messages"][-1]
    twice = asking.model_copy(update={"tool_calls": asking.tool_calls * 2})
    await agent.aupdate_state(THREAD, {"messages": [twice]})
    await agent.ainvoke(None, THREAD)
    assert len(shop.box.ran) <= 1
