"""A model request whose model stays guarded, whichever model the middleware further in puts into it."""

from __future__ import annotations

import dataclasses
from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.language_models import BaseChatModel

from guardmw_langgraph.model import GuardedChatModel
from guardmw_langgraph.seam import Seam


class GuardedRequest(ModelRequest[Any]):
    """As ModelRequest, but a model given to `override` (by a fallback, a router) is guarded as the first one was."""

    _seams: tuple[Seam, ...] = ()

    def override(self, **overrides: Any) -> ModelRequest[Any]:
        return _rebuilt(super().override(**overrides), self._seams)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _guarded(value, self._seams) if name == "model" else value)


def guarded_request(request: ModelRequest[Any], seam: Seam) -> ModelRequest[Any]:
    """`request` with its model behind `seam`, and behind those it was behind already."""
    return _rebuilt(request, (*getattr(request, "_seams", ()), seam))


def _rebuilt(request: ModelRequest[Any], seams: tuple[Seam, ...]) -> ModelRequest[Any]:
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    rebuilt = GuardedRequest(**{**fields, "model": _guarded(fields["model"], seams)})
    object.__setattr__(rebuilt, "_seams", seams)  # ModelRequest warns of plain assignment
    return rebuilt


def _guarded(model: BaseChatModel, seams: tuple[Seam, ...]) -> BaseChatModel:
    present = list(_seams_of(model))
    for seam in seams:
        if not any(seam is other for other in present):
            model = GuardedChatModel(model, seam)
    return model


def _seams_of(model: BaseChatModel) -> list[Seam]:
    seams = []
    while isinstance(model, GuardedChatModel):
        seams.append(model.seam)
        model = model.inner
    return seams
