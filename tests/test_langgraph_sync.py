"""Synchronous callers get what asynchronous ones get, and no deadlock."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent

from guardmw.policy.match import PolicySet
from guardmw.policy.schema import Policy
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware, guard_model
from langgraph_world import BAD, CLEAN, FORBIDDEN, REPLACEMENT, UNAVAILABLE, guarded, policy


def test_synchronous_calls_work_in_the_thread_of_a_running_loop(request: pytest.FixtureRequest) -> None:
    async def main() -> str:
        return str(guarded(ScriptedChatModel([CLEAN])).invoke("?").text)

    detector = request.getfixturevalue("_blocked_loop_fails")
    detector.deactivate()  # blocking the loop is what the caller asked for
    try:
        assert asyncio.run(main()) == CLEAN
    finally:
        detector.activate()


def test_a_synchronous_call_that_would_wait_for_itself_is_refused() -> None:
    class Recursive(FakeGuard):
        async def check(self, check: Any, policy: Policy) -> Any:
            guarded(ScriptedChatModel(["x"])).invoke("?")

    answer = guard_model(ScriptedChatModel(["x"]), policy(), guard=Recursive()).invoke("?")
    assert answer.text == UNAVAILABLE
    assert threading.active_count() < 20


def test_synchronous_streams_arrive_as_they_come() -> None:
    model = guarded(ScriptedChatModel([CLEAN * 4], delay_s=0.005))
    began_s, times_s = time.monotonic(), []
    stream: Iterator[Any] = model.stream("?")
    for _ in stream:
        times_s.append(time.monotonic() - began_s)
    assert times_s[0] < times_s[-1] / 2


def test_the_name_of_the_agent_is_known_to_synchronous_callers() -> None:
    policies = PolicySet([policy(id="strict", agents=("bank",)), Policy(id="lax", agents=("shop",))])
    for name, text in (("bank", REPLACEMENT), ("shop", BAD)):
        middleware = GuardMiddleware(policies, guard=FakeGuard(FORBIDDEN))
        agent: Any = create_agent(ScriptedChatModel([BAD]), middleware=[middleware], name=name)
        assert agent.invoke({"messages": [("user", "Hello")]})["messages"][-1].text == text


def test_many_threads_at_once() -> None:
    model = guarded(ScriptedChatModel([CLEAN] * 64))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: model.invoke("?").text, range(64)))
    assert answers == [CLEAN] * 64
