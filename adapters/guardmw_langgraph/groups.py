"""Which messages of a conversation belong together: calls, and the results that answer them.

A result answers the newest call of its id before it, whatever stands between them: a tool may put messages of its own
there, with calls in them too, and parallel tools do so before others have returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage


class Group(NamedTuple):
    """Messages from `start` to before `end`, none of whose calls is answered after them; `last_result` is the place of
    the last result of a call in them, -1 without one."""

    start: int
    end: int
    last_result: int


def groups(messages: Sequence[BaseMessage], start: int) -> Iterator[Group]:
    """The groups in ``messages[start:]``, as small as they can be: each AIMessage begins one, unless a result comes
    after it of a call before it."""
    answered = _last_results(messages, start)
    begin, last = start, -1
    for place in range(start, len(messages)):
        if isinstance(messages[place], AIMessage):
            if begin < place and last < place:
                yield Group(begin, place, last)
                begin, last = place, -1
            last = max(last, answered.get(place, -1))
    yield Group(begin, len(messages), last)


def first_answered(messages: Sequence[BaseMessage], start: int) -> int:
    """The place of the first message before `start` that has a call which a result from `start` on answers; `start`
    when there is none."""
    if not start:
        return start
    asked: set[str] = set()
    sought: set[str] = set()
    for one in messages[start:]:
        if isinstance(one, AIMessage):
            asked |= _ids(one)
        elif isinstance(one, ToolMessage) and one.tool_call_id not in asked:
            sought.add(one.tool_call_id)
    first = start
    for place in range(start - 1, -1, -1):
        if not sought:
            break
        one = messages[place]
        if isinstance(one, AIMessage) and not sought.isdisjoint(ids := _ids(one)):
            first, sought = place, sought - ids
    return first


def answers(messages: Sequence[BaseMessage], group: Group) -> list[tuple[AIMessage, list[ToolMessage]]]:
    """The messages of `group` that call tools, each with the results of its calls; those of one call in their
    order."""
    found: list[tuple[AIMessage, list[ToolMessage]]] = []
    later: dict[str, list[ToolMessage]] = {}
    for place in range(group.end - 1, group.start - 1, -1):
        one = messages[place]
        if isinstance(one, ToolMessage):
            later.setdefault(one.tool_call_id, []).append(one)
        elif isinstance(one, AIMessage) and one.tool_calls:
            mine = [result for call in one.tool_calls for result in later.pop(call["id"] or "", ())]
            found.append((one, mine[::-1]))
    return found[::-1]


def begins_run(messages: Sequence[BaseMessage], group: Group) -> bool:
    """Whether the user speaks in `group`, as far as that can be told: what follows results may be a tool's."""
    return any(is_users(messages, place) for place in range(max(group.start, group.last_result + 1), group.end))


def is_users(messages: Sequence[BaseMessage], place: int) -> bool:
    """Whether the user surely said what stands at `place`: no call's result comes between it and the newest answer."""
    if not isinstance(messages[place], HumanMessage):
        return False
    newest = newest_answer(messages, place)
    returned = any(isinstance(one, ToolMessage) for one in messages[newest + 1 : place])
    return newest < 0 or not returned or not _ids(messages[newest])


def newest_answer(messages: Sequence[BaseMessage], end: int) -> int:
    """The place of the newest AIMessage before `end`, -1 without one."""
    return next((place for place in range(end - 1, -1, -1) if isinstance(messages[place], AIMessage)), -1)


def _last_results(messages: Sequence[BaseMessage], start: int) -> dict[int, int]:
    """By the place of a message with calls, the place of the last result of one of them."""
    asked: dict[str, int] = {}
    found: dict[int, int] = {}
    for place in range(start, len(messages)):
        one = messages[place]
        if isinstance(one, ToolMessage):
            if one.tool_call_id in asked:
                found[asked[one.tool_call_id]] = place
        elif isinstance(one, AIMessage):
            for call in one.tool_calls:
                asked[call["id"] or ""] = place
    return found


def _ids(message: BaseMessage) -> set[str]:
    return {call["id"] or "" for call in message.tool_calls} if isinstance(message, AIMessage) else set()
