"""What a tool's result says in content blocks, in escaped text and in commands: all of it is judged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Overwrite, Send
from pydantic import BaseModel

from guardmw.policy.escapes import detected, whole_escapes
from guardmw.policy.schema import Detectors, PatternDetector, PiiDetector, Results, Tools
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.types import Check, Decision, Redaction, ToolCall, Verdict, apply_redactions
from guardmw_langgraph import GuardMiddleware, guard_tools
from guardmw_langgraph.contents import read
from guardmw_langgraph.held import redacted, rendered
from langgraph_world import FORBIDDEN, MAIL, policy
from toolbox import call, results

IBAN = "DE89370400440532013000"
DETECTING = policy(detectors=Detectors(pii=PiiDetector(entities=("email", "iban", "phone"))))


async def agent_reads(returned: Any, **changes: Any) -> ToolMessage:
    """What an agent reads of a tool that returns that."""

    @tool
    async def fetch() -> Any:
        """Fetches."""
        return returned

    middleware = GuardMiddleware(policy(**changes), guard=FakeGuard(FORBIDDEN))
    model = ScriptedChatModel([[call("fetch")], "Done."])
    agent: Any = create_agent(model, [fetch], middleware=[middleware])
    (one,) = results(await agent.ainvoke({"messages": [("user", "Hello")]}))
    return one


@pytest.mark.parametrize(
    "block",
    [
        {"type": "json", "json": {"data": FORBIDDEN}},
        {"type": "json", "json": {"id": FORBIDDEN}},
        {"type": "json", "json": {FORBIDDEN: 1}},
        {"type": "json", "json": {"deep": [{"type": FORBIDDEN}]}},
        {"type": "search_result", "source": FORBIDDEN, "title": "t", "content": []},
        {"type": "document", "source": {"type": "text", "data": FORBIDDEN}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": FORBIDDEN}]}},
        {"type": "document", "source": {"type": "base64", "data": "AAAA"}, "context": FORBIDDEN},
        {"type": "file", "file": {"filename": FORBIDDEN, "file_data": "AAAA"}},
        {"type": "text", "text": "fine", "citations": [{"cited_text": FORBIDDEN}]},
    ],
)
async def test_all_that_a_block_says_is_judged(block: dict[str, Any]) -> None:
    one = await agent_reads([{"type": "text", "text": "A hat."}, block])
    assert FORBIDDEN not in repr(one)
    assert "is not shown" in one.text


async def test_detectors_read_blocks() -> None:
    one = await agent_reads([{"type": "json", "json": {"data": MAIL}}])
    assert one.content == '{"type": "json", "json": {"data": "[EMAIL]"}}'


async def test_what_is_said_beside_a_medium_goes_with_the_text() -> None:
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png", "caption": f"by {MAIL}"}
    one = await agent_reads([{"type": "text", "text": "A hat."}, image])
    assert one.content == [
        {"type": "text", "text": 'A hat.\n{"caption": "by [EMAIL]"}'},
        {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
    ]


async def test_a_document_that_is_text_is_no_medium() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "All about hats."}}
    one = await agent_reads([document], tools=Tools(results=Results(media="block")))
    assert one.content == [document]
    assert read([{"type": "image", "base64": "AAAA"}]).text == ""


LISTS: dict[str, Any] = {
    "video": [{"type": "video", "url": FORBIDDEN}],
    "audio": [{"type": "audio", "id": FORBIDDEN}],
    "input": [{"type": "input_file", "file_data": FORBIDDEN}],
    "folder": [{"type": "file", "data": FORBIDDEN}, {"type": "folder", "id": 2}],
    "text": ["Look:", {"type": "image", "url": FORBIDDEN}],
    "identity": [{"type": "text", "text": "fine", "id": FORBIDDEN}, {"type": "archive"}],
}


async def node_reads(returned: Any, **changes: Any) -> ToolMessage:
    """What an agent reads of a guarded tool that returns that, in a ToolNode of its own."""

    @tool
    async def fetch() -> Any:
        """Fetches."""
        return returned

    built = StateGraph(MessagesState)
    built.add_node("tools", ToolNode(guard_tools([fetch], policy(**changes), guard=FakeGuard(FORBIDDEN))))
    built.add_edge(START, "tools")
    asking = AIMessage("", tool_calls=[{"name": "fetch", "args": {}, "id": "1"}])
    (one,) = results(await built.compile().ainvoke({"messages": [HumanMessage("Hello"), asking]}))
    return one


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("reads", [agent_reads, node_reads])
async def test_a_list_that_becomes_json_is_judged_whole(reads: Any, kind: str) -> None:
    one = await reads(LISTS[kind])
    assert FORBIDDEN not in repr(one)
    assert "is not shown" in one.text
    clean = json.loads(json.dumps(LISTS[kind]).replace(FORBIDDEN, "a"))
    assert (await reads(clean)).content == json.dumps(clean)


@pytest.mark.parametrize("reads", [agent_reads, node_reads])
async def test_media_beside_plain_texts_are_media(reads: Any) -> None:
    one = await reads(["Look:", {"type": "image", "base64": "AAAA"}], tools=Tools(results=Results(media="block")))
    assert "it holds image, not text only" in one.text


def found(surface: Any, text: str) -> list[str]:
    return [text[match.start : match.end] for match in detected(DETECTING, surface, text)]


@pytest.mark.parametrize("before", ["iban:\n", "iban:\t", "iban:\r\n", 'the "iban" is "', "in C:\\", "iban: "])
@pytest.mark.parametrize("value", [IBAN, "+49 30 901820", MAIL])
def test_escapes_hide_nothing(before: str, value: str) -> None:
    data = {"text": f"{before}{value}\n"}
    arguments, inner = json.dumps(data), json.dumps({"body": json.dumps(data)})
    assert found("tool_call", f"send({arguments})") == [value]
    assert found("tool_result", arguments) == [value]
    for text in (f"send({inner})", f"It said {data!r}"):  # read in two ways, and one may take the escape for a letter
        assert any(one.endswith(value) for one in found("tool_call", text))


def test_characters_that_are_escapes_themselves_are_read() -> None:
    assert found("tool_result", json.dumps({"x": "\uff2aane@example.com"})) == ["\\uff2aane@example.com"]
    digits = "".join(chr(0x1D7CE + int(digit)) for digit in "4930901820")  # each two escapes
    assert found("tool_result", json.dumps({"x": f"+{digits}"})) == [json.dumps(f"+{digits}")[1:-1]]


def test_text_that_is_no_json_is_read_as_it_stands_too() -> None:
    windows = policy(detectors=Detectors(patterns=(PatternDetector(id="path", pattern=r"C:\\new"),)))
    assert [match.start for match in detected(windows, "tool_result", r"in C:\new")] == [3]
    assert [match.start for match in detected(windows, "tool_result", r'{"x": "C:\\new"}')] == [7]


@given(st.text(alphabet='ab"\\\n\t/u@é', max_size=30), st.data())
def test_no_redaction_breaks_json(text: str, data: st.DataObject) -> None:
    line = json.dumps({"x": text})
    start = data.draw(st.integers(7, len(line) - 2))
    end = data.draw(st.integers(start, len(line) - 2))
    cut = apply_redactions(line, whole_escapes(line, [Redaction((start, end), "[X]")]))
    assert list(json.loads(cut)) == ["x"]


@pytest.mark.parametrize(("early", "kept"), [(0, "write to\n[EMAIL]"), (1, "write to[EMAIL]")])
def test_a_redacted_call_stays_a_call(early: int, kept: str) -> None:
    """Also where whoever found the value took the end of an escape for its first letter."""
    written = ToolCall("mail", json.dumps({"text": f"write to\n{MAIL}"}), "1")
    (match,) = detected(policy(), "tool_call", rendered(written))
    redaction = Redaction((match.start - early, match.end), "[EMAIL]")
    decision = Decision(Check("tool_call", rendered(written)), Verdict(), "redact", "", redactions=(redaction,))
    changed = redacted(written, decision)
    assert changed is not None
    assert json.loads(changed.arguments) == {"text": kept}


@pytest.mark.parametrize("long", [False, True])
async def test_values_after_a_line_break_are_redacted_in_results(long: bool) -> None:
    note = "About hats. " * (1000 if long else 1)
    one = await agent_reads({"a": f"{note}account:\n{IBAN}", "b": f"ask\n{MAIL}"}, detectors=DETECTING.detectors)
    assert json.loads(one.text) == {"a": f"{note}account:\n[IBAN]", "b": "ask\n[EMAIL]"}


SAYS = {
    "human": HumanMessage(FORBIDDEN),
    "ai": AIMessage(FORBIDDEN),
    "system": SystemMessage(FORBIDDEN),
    "call": AIMessage("", tool_calls=[{"name": "fetch", "args": {"what": FORBIDDEN}, "id": "9"}]),
    "thought": AIMessage("fine", additional_kwargs={"reasoning_content": FORBIDDEN}),
    "dict": {"role": "user", "content": FORBIDDEN},
    "pair": ("user", FORBIDDEN),
    "text": FORBIDDEN,
}


@tool
async def commands(what: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """Answers with a command."""
    return Command(update={"messages": [ToolMessage("ok", tool_call_id=tool_call_id), SAYS[what]]})


@pytest.mark.parametrize("what", SAYS)
@pytest.mark.parametrize("guarded", [False, True])
async def test_every_message_of_a_command_is_judged(what: str, guarded: bool) -> None:
    guard = FakeGuard(FORBIDDEN)
    model = ScriptedChatModel([[call("commands", what=what, id="1")], "Done."])
    given: Any = {"messages": [("user", "Hello")]}
    if guarded:
        state = await create_agent(model, guard_tools([commands], policy(), guard=guard)).ainvoke(given)
    else:
        middleware = GuardMiddleware(policy(), guard=guard)
        state = await create_agent(model, [commands], middleware=[middleware]).ainvoke(given)
    assert FORBIDDEN not in repr(state["messages"])
    assert "is not shown" in repr(state["messages"]) or what == "thought"
    assert results(state)[0].text == "ok"


def _tool_says(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "content": FORBIDDEN, "tool_call_id": call_id}


class Model(BaseModel):
    messages: list[Any] = []
    count: int = 0


@dataclass
class Data:
    messages: list[Any]
    count: int = 3


class Named(NamedTuple):
    messages: list[Any]


COMMANDS: dict[str, Any] = {
    "one dict": lambda id: Command(update={"messages": _tool_says(id)}),
    "one text": lambda id: Command(update={"messages": FORBIDDEN}),
    "one message": lambda id: Command(update={"messages": HumanMessage(FORBIDDEN)}),
    "pairs": lambda id: Command(update=[("messages", [_tool_says(id)])]),
    "another key": lambda id: Command(update={"chat": [HumanMessage(FORBIDDEN)]}),
    "overwritten": lambda id: Command(update={"messages": Overwrite([HumanMessage(FORBIDDEN)])}),
    "pair": lambda id: Command(update=(("messages", [_tool_says(id)]),)),
    "tuple": lambda id: Command(update=(HumanMessage(FORBIDDEN),)),
    "pydantic": lambda id: Command(update=Model(messages=[_tool_says(id)])),
    "dataclass": lambda id: Command(update=Data(messages=[_tool_says(id)])),
    "named tuple": lambda id: Command(update=Named(messages=[_tool_says(id)])),
    "sent": lambda id: Command(goto=[Send("next", {"messages": [_tool_says(id)]}), "other"]),
    "sent alone": lambda id: Command(goto=Send("next", {"messages": FORBIDDEN})),
    "sent list": lambda id: Command(goto=[Send("next", [HumanMessage(FORBIDDEN)])]),
}


@pytest.mark.parametrize("form", COMMANDS)
async def test_commands_are_judged_in_every_form(form: str) -> None:
    @tool
    async def leaves() -> Any:
        """Leaves."""
        return COMMANDS[form]("1")

    (guarded,) = guard_tools([leaves], policy(), guard=FakeGuard(FORBIDDEN))
    found = await guarded.ainvoke({})
    assert FORBIDDEN not in repr(found)
    assert "is not shown" in repr(found)
    assert form != "sent" or [getattr(one, "node", one) for one in found.goto] == ["next", "other"]


@pytest.mark.parametrize("form", ["pydantic", "dataclass", "pair"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_updates_by_objects_reach_the_state_judged(form: str, wrapped: bool) -> None:
    @tool
    async def leaves(tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Leaves."""
        return COMMANDS[form](tool_call_id)

    guard = FakeGuard(FORBIDDEN)
    model = ScriptedChatModel([[call("leaves")], "Done."])
    middleware = [] if wrapped else [GuardMiddleware(policy(), guard=guard)]
    tools = guard_tools([leaves], policy(), guard=guard) if wrapped else [leaves]
    agent: Any = create_agent(model, tools, middleware=middleware)
    state = await agent.ainvoke({"messages": [("user", "Hello")]})
    assert FORBIDDEN not in repr((state, model.prompts))
    assert "is not shown" in results(state)[0].text


async def test_an_object_updates_the_keys_that_it_did_before() -> None:
    @tool
    async def leaves() -> Any:
        """Leaves."""
        return Command(update=Data([HumanMessage("A hat.")]))

    (guarded,) = guard_tools([leaves], policy(), guard=FakeGuard(FORBIDDEN))
    command = await guarded.ainvoke({})
    assert command._update_as_tuples() == (("messages", [HumanMessage("A hat.")]), ("count", 3))


async def test_clean_commands_stay_what_they_are() -> None:
    said: list[BaseMessage] = [HumanMessage("A hat."), AIMessage("A cap.")]
    command: Any = Command(update={"messages": said, "count": 3}, goto=[Send("next", {"messages": said, "x": "y"})])

    @tool
    async def leaves() -> Any:
        """Leaves."""
        return command

    (guarded,) = guard_tools([leaves], policy(), guard=FakeGuard(FORBIDDEN))
    assert await guarded.ainvoke({}) == command


async def test_the_node_that_is_sent_to_gets_nothing_unjudged() -> None:
    @tool
    async def leaves(tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Leaves."""
        goto = [Send("next", {"messages": [ToolMessage(FORBIDDEN, tool_call_id=tool_call_id)]})]
        return Command(graph=Command.PARENT, goto=goto, update={"messages": _tool_says(tool_call_id)})

    got: list[Any] = []
    inner, outer = StateGraph(MessagesState), StateGraph(MessagesState)
    inner.add_node("tools", ToolNode(guard_tools([leaves], policy(), guard=FakeGuard(FORBIDDEN))))
    inner.add_edge(START, "tools")
    outer.add_node("inner", inner.compile())
    outer.add_node("next", lambda state: got.append(state["messages"]) or {})  # type: ignore[func-returns-value]
    outer.add_edge(START, "inner")
    asking = AIMessage("", tool_calls=[{"name": "leaves", "args": {}, "id": "1"}])
    state = await outer.compile().ainvoke({"messages": [HumanMessage("Hello"), asking]})
    assert FORBIDDEN not in repr((got, state))
    assert "is not shown" in repr(got)


@pytest.mark.parametrize(("value", "kept"), [(IBAN, "[IBAN]"), ("+49 30 901820", "[PHONE]"), (MAIL, "[EMAIL]")])
async def test_values_after_a_line_break_are_redacted_in_calls(value: str, kept: str) -> None:
    sent: list[str] = []

    @tool
    async def mail(text: str) -> str:
        """Mails."""
        sent.append(text)
        return "sent"

    middleware = GuardMiddleware(DETECTING, guard=FakeGuard(FORBIDDEN))
    model = ScriptedChatModel([[call("mail", text=f"write to\n{value}")], "Done."])
    agent: Any = create_agent(model, [mail], middleware=[middleware])
    await agent.ainvoke({"messages": [("user", "Hello")]})
    assert sent == [f"write to\n{kept}"]
