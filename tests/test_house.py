"""The nets under every test hold: the network is out of reach, a blocked event loop fails, live parts are counted."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blockbuster import BlockingError
from hypothesis import given, settings
from hypothesis import strategies as st

from guardmw.policy.schema import Category, Policy
from guardmw.testing import FakeGuard
from guardmw.types import Check
from network_guard import NetworkUsed, guarded_network

ROOT = Path(__file__).parent.parent
ANY = Category(id="any", title="Anything", unsafe_when="The text says anything.")

CASE = '<testcase name="t"><properties><property name="live" value="{part}"/></properties>{outcome}</testcase>'


def live_parts(tmp_path: Path, cases: list[str], *required: str) -> subprocess.CompletedProcess[str]:
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return _run(report, *required)


def _run(report: Path, *required: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "live_parts.py"), str(report), *required]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_required_part_passed(tmp_path: Path) -> None:
    cases = [CASE.format(part=part, outcome="") for part in ("wheel", "sqlite")]
    assert live_parts(tmp_path, cases, "wheel", "sqlite").returncode == 0


@pytest.mark.parametrize("outcome", ["<skipped/>", "<failure/>", "<error/>"])
def test_a_part_that_did_not_pass_fails_the_run(tmp_path: Path, outcome: str) -> None:
    result = live_parts(tmp_path, [CASE.format(part="wheel", outcome=outcome)], "wheel")
    assert result.returncode == 1
    assert "wheel: DID NOT RUN" in result.stdout


def test_a_part_without_a_test_fails_the_run(tmp_path: Path) -> None:
    assert live_parts(tmp_path, [CASE.format(part="wheel", outcome="")], "wheel", "browser").returncode == 1


def test_no_report_fails_the_run(tmp_path: Path) -> None:
    assert _run(tmp_path / "none.xml", "wheel").returncode == 1


@pytest.mark.live("itself")
def test_live_parts_reach_the_report(request: pytest.FixtureRequest) -> None:
    assert ("live", "itself") in request.node.user_properties


def test_the_network_is_out_of_reach() -> None:
    with guarded_network() as attempts:
        with pytest.raises(NetworkUsed):
            socket.create_connection(("example.com", 443), timeout=1)
        with pytest.raises(NetworkUsed), socket.socket() as outgoing:
            outgoing.connect(("192.0.2.1", 9))
    assert attempts == ["example.com", "192.0.2.1"]


async def test_loopback_can_be_reached() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
        assert await reader.read() == b""
        writer.close()


async def test_blocking_the_event_loop_fails() -> None:
    def blocking(text: str) -> float:
        time.sleep(0.001)
        return 0.0

    blocking("no code of ours is on the stack: allowed")
    guard = FakeGuard(unsafe=blocking)
    with pytest.raises(BlockingError):
        await guard.check(Check(surface="output", content="text"), Policy(id="plain", categories=(ANY,)))


@given(st.integers())
def test_hypothesis_has_no_deadline_of_its_own(number: int) -> None:
    assert settings().deadline is None
    assert settings().derandomize == bool(os.environ.get("CI")), number
