"""The public API as a typed program sees it. Never run: mypy (strict) and pyright (strict) check it in `make lint`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import assert_type

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType]
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool

from guardmw import (
    Action,
    Check,
    Checker,
    Decision,
    Finding,
    Guard,
    Policy,
    PolicySet,
    Surface,
    Verdict,
    load_policies,
)
from guardmw.errors import GuardError, GuardmwError, PolicyError
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder, Recorder
from guardmw_langgraph import GuardMiddleware, guard_model, guard_tools


class OwnGuard:
    """What a user writes to bring a guard of their own."""

    name = "own"
    version = "1"

    async def check(self, check: Check, policy: Policy) -> Verdict:
        categories = policy.categories_on(check.surface)
        return Verdict(
            tuple(Finding(category.id, 0.0, "guard:own") for category in categories), self.name, self.version
        )

    async def aclose(self) -> None: ...


class OwnRecorder:
    def record(self, decision: Decision) -> None:
        assert_type(decision.action, Action)


def guards() -> list[Guard]:
    return [OwnGuard(), FakeGuard("ACME"), FakeGuard(re.compile("ACME")), FakeGuard(lambda text: 0.5, latency_s=0.02)]


def recorders() -> list[Recorder]:
    return [OwnRecorder(), MemoryRecorder(limit=10)]


def policies() -> Policy:
    loaded = load_policies("support", Path("policies"))
    assert_type(loaded, PolicySet)
    return loaded.for_agent("support")


async def checking() -> Action:
    checker = Checker(policies(), guard=OwnGuard(), recorder=MemoryRecorder())
    surface: Surface = "output"
    decision = await checker.check(Check(surface=surface, content="hello"))
    assert_type(decision, Decision)
    await checker.aclose()
    return decision.action


def langgraph(model: BaseChatModel, tools: list[BaseTool]) -> None:
    middleware = GuardMiddleware(Path("support.yaml"), guard="embedded", agent="support", recorder=OwnRecorder())
    create_agent(model, tools, middleware=[middleware])  # pyright: ignore[reportUnknownMemberType]
    guarded: BaseChatModel = guard_model(model, policies(), guard=OwnGuard())
    assert_type(guard_tools(tools, load_policies("support"), guard=FakeGuard()), list[BaseTool])
    guarded = guard_model(ScriptedChatModel(["one", ["t", "wo"]], delay_s=0.01), "support", recorder=MemoryRecorder())
    guarded.bind_tools(tools)


def errors(error: PolicyError | GuardError) -> tuple[GuardmwError, int | None]:
    return error, error.line if isinstance(error, PolicyError) else None
