"""A model request whose model stays guarded, whichever model the middleware further in puts into it."""

from __future__ import annotations

import dataclasses
from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel

from guardmw_langgraph.internals import can_interrupt
from guardmw_langgraph.loop import Loop, named
from guardmw_langgraph.model import GuardedChatModel
from guardmw_langgraph.seam import Seam


class GuardedRequest(ModelRequest[Any]):
    """As ModelRequest, but a model given to `override` (by a fallback, a router) is guarded as the first one was."""

    _seams: tuple[Seam, ...] = ()

    def override(self, **overrides: Any) -> ModelRequest[Any]:
        return _rebuilt(super().override(**overrides), self._seams)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model" and self._seams:  # none yet while it is built
            value = _guarded(value, self._seams, _loop(self))
        super().__setattr__(name, value)


def guarded_request(request: ModelRequest[Any], seam: Seam) -> ModelRequest[Any]:
    """`request` with its model behind `seam`, and behind those it was behind already."""
    return _rebuilt(request, (*getattr(request, "_seams", ()), seam))


def _rebuilt(request: ModelRequest[Any], seams: tuple[Seam, ...]) -> ModelRequest[Any]:
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    model = _guarded(fields["model"], seams, _loop(request))
    rebuilt = GuardedRequest(**{**fields, "model": model})
    object.__setattr__(rebuilt, "_seams", seams)  # ModelRequest warns of plain assignment
    return rebuilt


def _loop(request: ModelRequest[Any]) -> Loop:
    state: Any = getattr(request, "state", None) or {}
    messages = state.get("messages") or getattr(request, "messages", [])
    outputs = _outputs(getattr(request, "response_format", None))
    return Loop(named(getattr(request, "tools", None) or []), can_interrupt(), messages, outputs)


def _outputs(response_format: Any) -> frozenset[str]:
    """The names of the calls by which the model may give structured output."""
    if response_format is None or isinstance(response_format, ProviderStrategy):
        return frozenset()
    if isinstance(response_format, AutoStrategy):
        response_format = response_format.schema
    if not isinstance(response_format, ToolStrategy):
        response_format = ToolStrategy(response_format)
    return frozenset(spec.name for spec in response_format.schema_specs)


def _guarded(model: BaseChatModel, seams: tuple[Seam, ...], loop: Loop) -> BaseChatModel:
    """`model` behind `seams`, each of which it may be behind already, in an agent that is `loop`."""
    model = _outside_loops(model)
    present = list(_seams_of(model))
    for seam in seams:
        if not any(seam is other for other in present):
            model = GuardedChatModel(model, seam, loop)
    return model


def _outside_loops(model: BaseChatModel) -> BaseChatModel:
    """`model` without the guards that were put round it for another request."""
    while isinstance(model, GuardedChatModel) and model.loop is not None:
        model = model.inner
    return model


def _seams_of(model: BaseChatModel) -> list[Seam]:
    seams = []
    while isinstance(model, GuardedChatModel):
        seams.append(model.seam)
        model = model.inner
    return seams
