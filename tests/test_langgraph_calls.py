"""Tool calls are judged one by one, whatever they are spelled in, before anyone sees them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command

from guardmw.errors import BlockedError
from guardmw.policy import parse_policy
from guardmw.policy.schema import Argument, SequenceRule, ToolRule, Tools
from guardmw.testing import FakeGuard, ScriptedChatModel, collect
from guardmw_langgraph import guard_model, guard_tools
from guardmw_langgraph.callmarks import not_made
from langgraph_world import FORBIDDEN, MAIL, REPLACEMENT, policy
from toolbox import APPROVE, THREAD, asked, edit, results


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}


async def answers(turn: Any, given: Any = "Hello", **changes: Any) -> list[AIMessage]:
    """The answer as streamed and as given at once."""
    guarded = guard_model(ScriptedChatModel([turn] * 2), policy(**changes), guard=FakeGuard(FORBIDDEN))
    chunks = await collect(guarded.astream(given))
    return [sum(chunks[1:], chunks[0]), await guarded.ainvoke(given)]


def made(answer: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(one["name"], one["args"]) for one in answer.tool_calls]


async def test_a_withheld_call_is_dropped_and_the_others_stay() -> None:
    turn = ["One moment.", call("find", q="shoes"), call("find", q=FORBIDDEN), call("look", at="hats")]
    for answer in await answers(turn):
        assert made(answer) == [("find", {"q": "shoes"}), ("look", {"at": "hats"})]
        assert answer.text == f"One moment.\n\n{REPLACEMENT}"
        assert answer.response_metadata["finish_reason"] == "content_filter"
        assert FORBIDDEN not in repr(answer)


def _anthropic(*texts: str) -> list[AIMessageChunk]:
    chunks = []
    for index, text in enumerate(texts):
        args, ident = json.dumps({"q": text}), f"toolu_{index}"
        block = {"type": "tool_use", "id": ident, "name": "find", "input": {}, "index": index}
        begin = tool_call_chunk(name="find", args="", id=ident, index=index)
        delta = {"type": "input_json_delta", "partial_json": args, "index": index}
        chunks += [
            AIMessageChunk(content=[block], tool_call_chunks=[begin]),
            AIMessageChunk(content=[delta], tool_call_chunks=[tool_call_chunk(args=args, index=index)]),
        ]
    return chunks


def _openai(*texts: str) -> list[AIMessageChunk]:
    chunks = []
    for index, text in enumerate(texts):
        args, ident = json.dumps({"q": text}), f"call_{index}"
        spelled = {"index": index, "id": ident, "function": {"name": "find", "arguments": args}}
        begin = tool_call_chunk(name="find", args=args, id=ident, index=index)
        chunks.append(AIMessageChunk(content="", tool_call_chunks=[begin], additional_kwargs={"tool_calls": [spelled]}))
    return chunks


@pytest.mark.parametrize("spelled", [_anthropic, _openai])
async def test_every_spelling_of_a_withheld_call_goes(spelled: Any) -> None:
    for answer in await answers(spelled("shoes", FORBIDDEN)):
        assert made(answer) == [("find", {"q": "shoes"})]
        assert FORBIDDEN not in repr(answer)
        assert "_1" not in repr([answer.content, answer.additional_kwargs])


@pytest.mark.parametrize("spelled", [_anthropic, _openai])
async def test_a_redacted_call_is_redacted_in_every_spelling(spelled: Any) -> None:
    for answer in await answers(spelled(f"to {MAIL}", "hats")):
        assert made(answer) == [("find", {"q": "to [EMAIL]"}), ("find", {"q": "hats"})]
        assert MAIL not in repr(answer)
        assert answer.response_metadata["guardmw"]["action"] == "redact"


async def test_a_withheld_call_takes_no_unjudged_text_along() -> None:
    citation = {"type": "text", "text": "", "citations": [{"cited_text": f"says {FORBIDDEN}"}], "index": 0}
    for answer in await answers([AIMessageChunk(content=[citation]), *_anthropic(FORBIDDEN)]):
        assert FORBIDDEN not in repr(answer)


async def test_the_oldest_spelling_is_a_call_too() -> None:
    function_call = {"name": "find", "arguments": json.dumps({"q": FORBIDDEN})}
    old = AIMessageChunk(content="", additional_kwargs={"function_call": function_call})
    for answer in await answers([old]):
        assert answer.additional_kwargs == {}
        assert answer.text == REPLACEMENT


@pytest.mark.parametrize("args", [f'{{"q": "{FORBIDDEN}', f"{FORBIDDEN} is no JSON", f'["{FORBIDDEN}"]'])
async def test_arguments_that_are_no_json_are_judged(args: str) -> None:
    for answer in await answers(
        [AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name="find", args=args, id="1", index=0)])]
    ):
        assert FORBIDDEN not in repr(answer)
        assert (answer.tool_calls, answer.invalid_tool_calls) == ([], [])


async def test_rules_decide_without_a_guard() -> None:
    tools = Tools(
        rules=(
            ToolRule(tool="delete_*", action="deny"),
            ToolRule(tool="send", args={"to": Argument(pattern=r"@shop\.example$")}, otherwise="ask"),
            ToolRule(tool="read", action="allow"),
        )
    )
    turn = [
        call("delete_all"),
        call("send", to="me@evil.example"),
        call("send", to="a@shop.example"),
        call("read", q=FORBIDDEN),
    ]
    for answer in await answers(turn, tools=tools, detectors={}):
        assert made(answer) == [("send", {"to": "a@shop.example"}), ("read", {"q": FORBIDDEN})]


async def test_the_order_of_calls_counts_over_the_whole_conversation() -> None:
    tools = Tools(sequences=(SequenceRule(name="no-exfiltration", after="read_customer", never="http_post"),))
    before = [
        HumanMessage("Hello"),
        AIMessage("", tool_calls=[{**call("read_customer"), "id": "1"}]),
        ToolMessage("Jane", tool_call_id="1"),
    ]
    for answer in await answers([call("http_post", data="x")], before, tools=tools):
        assert made(answer) == []
    for answer in await answers([call("http_post", data="x"), call("read_customer")], tools=tools):
        assert made(answer) == [("http_post", {"data": "x"}), ("read_customer", {})]
    for answer in await answers([call("read_customer"), call("http_post", data="x")], tools=tools):
        assert made(answer) == [("read_customer", {})]


async def test_a_withheld_call_is_no_history() -> None:
    tools = Tools(sequences=(SequenceRule(name="once", tool="find", at_most=1),))
    for answer in await answers([call("find", q=FORBIDDEN), call("find", q="hats")], tools=tools):
        assert made(answer) == [("find", {"q": "hats"})]


async def test_the_guard_sees_name_arguments_and_conversation() -> None:
    guard = FakeGuard()
    model = guard_model(ScriptedChatModel([[call("find", q="größe")]]), policy(), guard=guard, agent="shop")
    await model.ainvoke([HumanMessage("Which size?")])
    (check,) = [check for check in guard.checks if check.surface == "tool_call"]
    assert check.content == 'find({"q": "größe"})'
    assert (check.agent, check.calls[-1].name, check.conversation[0].content) == ("shop", "find", "Which size?")


DESK = r"""
id: desk
detectors: {pii: {entities: [email], action: redact}}
categories:
  - {id: forbidden, title: Forbidden, unsafe_when: The text says the magic word., surfaces: [tool_call]}
tools:
  rules: [{tool: refund, args: {amount: {maximum: 10}}, action: allow, otherwise: ask}]
  sequences:
    - {name: few-notes, tool: note, at_most: 1}
    - {name: no-exfiltration, after: refund, never: post}
"""


class Desk:
    """Guarded tools in a ToolNode, in a graph that begins with calls nobody has judged."""

    def __init__(self, *, text: str = DESK, **node: Any) -> None:
        self.ran: list[Any] = []
        self.guard = FakeGuard(FORBIDDEN)
        self.policy = parse_policy(text)
        tools = [self.send, self.refund, self.note, self.post]
        self.tools = guard_tools(tools, self.policy, guard=self.guard)
        built = StateGraph(MessagesState)
        built.add_node("tools", ToolNode(self.tools, **node))
        built.add_edge(START, "tools")
        self.graph: Any = built.compile(checkpointer=InMemorySaver())

    async def send(self, text: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Sends."""
        self.ran.append((text, len(state["messages"])))
        return "sent"

    async def refund(self, amount: int) -> str:
        """Refunds."""
        self.ran.append(amount)
        return "paid"

    async def note(self, text: str) -> str:
        """Notes."""
        self.ran.append(text)
        return "noted"

    async def post(self, text: str) -> str:
        """Posts."""
        self.ran.append(text)
        return "posted"

    async def makes(self, *calls: Any) -> dict[str, Any]:
        asking = AIMessage("", tool_calls=[{"id": "1", **one} for one in calls])
        return dict(await self.graph.ainvoke({"messages": [HumanMessage("Hi"), asking]}, THREAD))

    async def decide(self, *decisions: Any) -> dict[str, Any]:
        return dict(await self.graph.ainvoke(Command(resume={"decisions": list(decisions)}), THREAD))

    def judged(self) -> list[str]:
        return [check.content for check in self.guard.checks if check.surface == "tool_call"]


async def test_redacted_arguments_reach_the_tool_and_no_others() -> None:
    """What is injected stays, also when a model writes an argument of that name."""
    desk = Desk()
    await desk.makes(call("send", text=f"mail {MAIL} now", state={"messages": []}))
    assert desk.ran == [("mail [EMAIL] now", 2)]


async def test_what_a_person_approved_is_what_they_were_shown() -> None:
    desk = Desk(text=DESK.replace("{tool: refund,", "{tool: send, action: ask}, {tool: refund,"))
    state = await desk.makes(call("send", text=f"mail {MAIL}"))
    assert asked(state) == [{"name": "send", "args": {"text": "mail [EMAIL]"}}]
    await desk.decide(APPROVE)
    assert desk.ran == [("mail [EMAIL]", 2)]


async def test_of_calls_under_one_id_only_the_first_is_made() -> None:
    desk = Desk()
    state = await desk.makes(call("refund", amount=250), call("refund", amount=5), call("post", text="x"))
    assert asked(state) == [{"name": "refund", "args": {"amount": 250}}]
    state = await desk.decide(edit("refund", amount=20))
    assert desk.ran == [20]
    assert [one.text for one in results(state)][:1] == ["paid"]
    assert ["earlier call in the same message" in one.text for one in results(state)] == [False, True, True]


async def test_in_shadow_mode_all_calls_under_one_id_are_made() -> None:
    desk = Desk(text=f"{DESK}\nmode: shadow")
    await desk.makes(call("refund", amount=250), call("refund", amount=5), call("post", text="x"))
    assert sorted(map(str, desk.ran)) == ["250", "5", "x"]


async def test_calls_alike_in_everything_run_once() -> None:
    desk = Desk(text="id: d")
    state = await desk.makes(call("note", text="a"), call("note", text="a"))
    assert desk.ran == ["a"]
    assert sorted(one.status for one in results(state)) == ["error", "success"]


async def test_a_call_that_was_changed_on_its_way_to_the_tool_is_judged_as_it_runs() -> None:
    async def changed(request: Any, handler: Any) -> Any:
        made = request.tool_call
        return await handler(request.override(tool_call={**made, "args": {"text": made["args"]["text"] + more}}))

    for more, ran in ((f" {FORBIDDEN}", []), (f" {MAIL}", ["a [EMAIL]"]), ("", ["a"])):
        desk = Desk(awrap_tool_call=changed)
        state = await desk.makes(call("note", text="a"))
        assert (desk.ran, results(state)[0].status) == (ran, "success" if ran else "error")
        assert len(desk.judged()) == (2 if more else 1)


async def test_a_changed_call_keeps_its_history_and_nobody_is_asked_about_it() -> None:
    async def changed(request: Any, handler: Any) -> Any:
        args = {"text": "b"} if request.tool_call["name"] == "post" else {"amount": 99}
        return await handler(request.override(tool_call={**request.tool_call, "args": args}))

    desk = Desk(awrap_tool_call=changed)
    state = await desk.makes(call("refund", amount=5), {**call("post", text="a"), "id": "2"})
    assert desk.ran == []
    assert "nobody was asked about it as it is now" in results(state)[0].text
    assert "'post' may not be called after 'refund'" in results(state)[1].text


@pytest.mark.parametrize("changed", [False, True])
async def test_a_guarded_model_speaks_for_the_call_it_judged_only(changed: bool) -> None:
    desk = Desk()
    scripted = ScriptedChatModel([[{**call("note", text=f"to {MAIL}"), "id": "1"}]])
    model = guard_model(scripted, desk.policy, guard=desk.guard).bind_tools(desk.tools)
    answer = await model.ainvoke("Hi")
    if changed:
        answer = answer.model_copy(update={"tool_calls": [{**answer.tool_calls[0], "args": {"text": FORBIDDEN}}]})
    await desk.graph.ainvoke({"messages": [HumanMessage("Hi"), answer]}, THREAD)
    assert desk.ran == ([] if changed else ["to [EMAIL]"])
    assert len(desk.judged()) == 1 + changed


@pytest.mark.parametrize("changed", [False, True])
async def test_no_tool_node_handles_the_end_of_a_run(changed: bool) -> None:
    async def posts(request: Any, handler: Any) -> Any:
        args = {"text": FORBIDDEN} if changed else request.tool_call["args"]
        return await handler(request.override(tool_call={**request.tool_call, "args": args}))

    desk = Desk(text=DESK + "  on_block: terminate\n", handle_tool_errors=True, awrap_tool_call=posts)
    with pytest.raises(BlockedError, match="ends the run here"):
        await desk.makes(call("post", text="a" if changed else FORBIDDEN))
    assert desk.ran == []


async def test_a_run_in_which_the_same_was_refused_often_enough_makes_no_further_call() -> None:
    desk = Desk()
    said: list[Any] = [HumanMessage("Hi")]
    for place in range(3):
        asking = AIMessage("", tool_calls=[{**call("post", text="a"), "id": str(place)}])
        said += [asking, not_made("post", str(place), "no", "refused", "forbidden")]
    last = AIMessage("", tool_calls=[{**call("note", text="a"), "id": "9"}])
    with pytest.raises(BlockedError, match="what the policy refused in it ends it"):
        await desk.graph.ainvoke({"messages": [*said, last]}, THREAD)
    assert desk.ran == []
