"""Puts the guard round the model inside what `bind_tools` and `with_structured_output` return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableBinding, RunnableParallel, RunnableSequence
from langchain_core.runnables.fallbacks import RunnableWithFallbacks

from guardmw.errors import UnguardedError

Wrap = Callable[[BaseChatModel], BaseChatModel]


def rewrapped(runnable: Runnable[Any, Any], wrap: Wrap) -> Runnable[Any, Any]:
    """`runnable` with every chat model in it wrapped. Raises UnguardedError when there is none to be found."""
    found: list[BaseChatModel] = []

    def noted(model: BaseChatModel) -> BaseChatModel:
        found.append(model)
        return wrap(model)

    guarded = _rebuilt(runnable, noted)
    if not found:
        raise UnguardedError(
            f"the model made a {type(runnable).__name__} of itself in which guardmw finds no chat model to guard; "
            "guard the model it uses inside instead, with guard_model()"
        )
    return guarded


def _rebuilt(runnable: Runnable[Any, Any], wrap: Wrap) -> Runnable[Any, Any]:
    match runnable:
        case BaseChatModel():
            return wrap(runnable)
        case RunnableBinding():
            return runnable.model_copy(update={"bound": _rebuilt(runnable.bound, wrap)})
        case RunnableSequence():
            return RunnableSequence(*(_rebuilt(step, wrap) for step in runnable.steps), name=runnable.name)
        case RunnableParallel():
            steps = {name: _rebuilt(step, wrap) for name, step in runnable.steps__.items()}
            return runnable.model_copy(update={"steps__": steps})
        case RunnableWithFallbacks():
            fallbacks = [_rebuilt(fallback, wrap) for fallback in runnable.fallbacks]
            return runnable.model_copy(update={"runnable": _rebuilt(runnable.runnable, wrap), "fallbacks": fallbacks})
        case _:
            return runnable
