"""The forms in which LangGraph takes an update of a state, and messages in it."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages
from langgraph.types import Command


def has_messages(value: Any) -> bool:
    return any(isinstance(one, BaseMessage) for one in (value if isinstance(value, list | tuple) else [value]))


def update_of(command: Command[Any]) -> Any:
    """The update of `command`; of an object the pairs of key and value that LangGraph takes it for, in a tuple: a
    ToolNode checks lists and dicts more strictly."""
    update: Any = command.update
    if update is None or isinstance(update, dict) or may_be_messages(update):
        return update
    entries = tuple(command._update_as_tuples())
    return update if [key for key, _ in entries] == ["__root__"] else entries


def may_be_messages(update: Any) -> bool:
    return isinstance(update, list | BaseMessage) or type(update) is tuple


def is_entry(item: Any) -> bool:
    """Whether `item` is a key of the state and its value: in an update, every pair that begins with a text is one."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)


def as_message(written: Any) -> BaseMessage | None:
    """`written`, a message in any form, as the message it will become; None when it can't become one."""
    if isinstance(written, BaseMessage):
        return written
    try:
        return convert_to_messages([written])[0]
    except (ValueError, NotImplementedError, KeyError, TypeError):
        return None
