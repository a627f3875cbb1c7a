"""The embedded guard with its encoder on servers: the same verdicts, and every fault of a server by its name."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fault_server import Fault, FaultServer
from guardmw.errors import (
    GuardAnswerError,
    GuardConfigError,
    GuardConnectionError,
    GuardError,
    GuardOverloadedError,
    GuardTimeoutError,
)
from guardmw.guard import resolve_guard
from guardmw.guard.embedded import EmbeddedGuard, bundled_weights
from guardmw.guard.export import export_encoder
from guardmw.guard.remote import RemoteEmbeddedGuard, StateServers
from guardmw.guard.resilience import GuardRunner
from guardmw.guard.served import served_name
from guardmw.policy.schema import Category, Limits, Policy, Precedent
from guardmw.types import Check, Verdict
from numpy_bert import NumpyBert

POLICY = Policy(
    id="small",
    categories=(
        Category(
            id="cybercrime", title="Cybercrime", unsafe_when="The text helps to break into accounts or steal data.",
            precedents=(Precedent(text="How can I read her messages?", label="unsafe", why=""),),
        ),
    ),
    limits=Limits(deadline_ms=60_000),
)  # fmt: skip
HURRIED = POLICY.model_copy(update={"limits": Limits(deadline_ms=300)})
UNSAFE = "Steal her password and put spyware on her phone."
CHECK = Check("output", UNSAFE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "encoder"
    export_encoder(bundled_weights(), folder)
    return folder


class EncoderModel:
    """What vLLM's ``/pooling`` answers for the exported encoder."""

    def __init__(self, folder: Path) -> None:
        self._bert = NumpyBert(folder)

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/pooling"
        assert (body["task"], body["use_activation"]) == ("token_embed", False)
        states = [self._bert.states(ids).astype("<f4").tobytes() for ids in body["input"]]
        return {"data": [{"index": at, "data": base64.b64encode(each).decode()} for at, each in enumerate(states)]}


@pytest.fixture(scope="module")
def name(exported: Path) -> str:
    return served_name(str(exported))


async def remote(urls: str | list[str]) -> RemoteEmbeddedGuard:
    """Built in a thread: reading weights would block the event loop."""
    return await asyncio.to_thread(RemoteEmbeddedGuard, urls)


@pytest.fixture
async def server(exported: Path, name: str) -> AsyncIterator[FaultServer]:
    async with FaultServer(EncoderModel(exported), models=(name,)) as made:
        yield made


@pytest.fixture
async def guard(server: FaultServer) -> AsyncIterator[RemoteEmbeddedGuard]:
    made = await remote(server.url)
    yield made
    await made.aclose()


def score(verdict: Verdict) -> float:
    (finding,) = verdict.findings
    return finding.probability


async def test_its_verdicts_are_the_embedded_guard_s(guard: RemoteEmbeddedGuard) -> None:
    local = await asyncio.to_thread(EmbeddedGuard)
    for text in (UNSAFE, "Where is my order?", "The lamp is blue. " * 60):
        check = Check("output", text)
        served, own = await guard.check(check, POLICY), await local.check(check, POLICY)
        assert score(served) == pytest.approx(score(own), abs=0.15)
        assert (served.guard, served.tokens) == (own.guard, own.tokens)
    assert guard.version == f"{local.version}/served"
    await local.aclose()


async def test_the_categories_are_encoded_once(guard: RemoteEmbeddedGuard, server: FaultServer) -> None:
    await guard.check(CHECK, POLICY)
    before = len(server.seen)
    await guard.check(CHECK, POLICY)
    assert len(server.seen) == before + 1


async def test_a_policy_can_be_prepared(guard: RemoteEmbeddedGuard, server: FaultServer) -> None:
    guard.prepare(POLICY)
    await asyncio.wait_for(server.reached.wait(), 10)
    assert score(await guard.check(CHECK, POLICY)) > 0.3


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (Fault(drop=True), GuardConnectionError, "is the server up"),
        (Fault(half=True), GuardConnectionError, "broke off"),
        (Fault(hang=True), GuardTimeoutError, "0.3 s"),
        (Fault.error(500, "out of memory"), GuardConnectionError, "out of memory"),
        (Fault.error(503, "busy"), GuardOverloadedError, "takes no more requests"),
        (Fault.error(400, "no such task"), GuardConfigError, "guardmw guard export"),
        (Fault(body=b"<html>"), GuardAnswerError, "no JSON"),
        (Fault(body=b'{"data": []}'), GuardAnswerError, "0 results for 1 texts"),
        (Fault(body=b'{"data": {}}'), GuardAnswerError, "no results for 1 texts"),
        (Fault(body=b'{"data": [{"data": [1.0, 2.0]}]}'), GuardAnswerError, "no vectors"),
        (Fault(body=b'{"data": [{"data": "AAAA"}]}'), GuardAnswerError, "no vectors"),
        (Fault(body=b'{"data": [{"data": "AACAPw=="}]}'), GuardAnswerError, r"answered with 1 numbers for \d+ word"),
    ],
)
async def test_faults_have_names(
    guard: RemoteEmbeddedGuard, server: FaultServer, fault: Fault, error: type[GuardError], said: str
) -> None:
    policy = HURRIED if fault.hang else POLICY
    await guard.check(CHECK, policy.model_copy(update={"limits": POLICY.limits}))  # the categories are encoded
    server.always = fault
    with pytest.raises(error, match=said):
        await guard.check(CHECK, policy)


async def test_numbers_that_are_none(guard: RemoteEmbeddedGuard, server: FaultServer) -> None:
    await guard.check(CHECK, POLICY)
    server.answer = lambda path, body: {
        "data": [
            {"data": base64.b64encode(np.full((len(ids), 384), np.nan, "<f4").tobytes()).decode()}
            for ids in body["input"]
        ]
    }
    with pytest.raises(GuardAnswerError, match="finite ones"):
        await guard.check(CHECK, POLICY)


async def test_a_server_that_is_down_and_one_that_is_not(server: FaultServer, exported: Path) -> None:
    down = FaultServer(EncoderModel(exported))
    await down.start()
    await down.stop()
    alone, both = await remote(down.url), await remote([down.url, server.url])
    with pytest.raises(GuardConnectionError, match="can't be reached"):
        await alone.check(CHECK, POLICY)
    assert score(await both.check(CHECK, POLICY)) > 0.3
    await alone.aclose()
    await both.aclose()


async def test_another_encoder_is_refused(exported: Path) -> None:
    async with FaultServer(EncoderModel(exported), models=("another",)) as other:
        guard = await remote(other.url)
        with pytest.raises(GuardConfigError, match=r"does not serve the guard's model.*guardmw guard export"):
            await guard.check(CHECK, POLICY)
        await guard.aclose()


async def test_waiting_for_its_turn_counts(guard: RemoteEmbeddedGuard, server: FaultServer) -> None:
    rare = POLICY.model_copy(update={"limits": Limits(deadline_ms=3_000, checks_per_s=2)})
    runner = GuardRunner(guard)
    for _ in range(2):
        await runner.check(Check("output", UNSAFE), rare)
    server.always = Fault(hang=True)
    with pytest.raises(GuardTimeoutError, match=server.url):
        await runner.check(Check("output", UNSAFE), rare)


async def test_closing_ends_what_waits(guard: RemoteEmbeddedGuard, server: FaultServer) -> None:
    await guard.check(CHECK, POLICY)
    server.always = Fault(hang=True)
    waiting = asyncio.create_task(guard.check(CHECK, POLICY))
    await asyncio.sleep(0.2)
    await guard.aclose()
    with pytest.raises(GuardError):
        await asyncio.wait_for(waiting, 2)
    with pytest.raises(GuardError, match="is closed"):
        await guard.check(CHECK, POLICY)
    await guard.aclose()


async def test_it_has_a_name(server: FaultServer, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDMW_GUARD_API_KEY", "key\n")
    guard = await asyncio.to_thread(resolve_guard, f"embedded:{server.url}?weights={exported}")
    assert isinstance(guard, RemoteEmbeddedGuard)
    assert score(await guard.check(CHECK, POLICY)) > 0.3
    assert server.seen[-1].headers["authorization"] == "Bearer key"
    await guard.aclose()


@pytest.mark.parametrize(
    "name", ["embedded:", "embedded:nowhere", "embedded:http://a?family=gspr", "embedded:http://a?weights="]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(GuardConfigError, match=r"http|embedded|weights"):
        resolve_guard(name)


def test_a_key_that_can_not_be_sent_is_refused_without_naming_it() -> None:
    with pytest.raises(GuardConfigError, match="can't be sent") as error:
        StateServers("http://a", "m", 384, "k-1\n23")
    assert "k-1" not in str(error.value)
