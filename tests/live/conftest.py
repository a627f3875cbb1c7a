"""A real vLLM for the live tests: one server with the tiny guard, started as users start it, shared by all of them.

Modules that use it carry `pytestmark = LIVE_VLLM` (tests/live/server.py). Without `.venv-vllm` they are skipped, and
the last lines of the run say so; `.ci/run` fails then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from live.server import READY, LiveServer, tiny_guard_server
from tiny_guard.build import build

SKIPPED = "NO REAL vLLM WAS TESTED: {count} live tests were skipped, since .venv-vllm is missing. `make vllm` makes it."


@pytest.fixture(scope="session")
def tiny_guard() -> Path:
    """The folder of the tiny guard's model; trained first when it isn't there yet."""
    if not READY.is_file():
        pytest.skip("no .venv-vllm: run `make vllm`")
    return build()


@pytest.fixture(scope="session")
def vllm_server(tiny_guard: Path) -> Iterator[LiveServer]:
    """A running vLLM with the tiny guard, started by `guardmw guard serve`."""
    with tiny_guard_server(tiny_guard) as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if ("live", "vllm") in report.user_properties
    ]
    if skipped and not READY.is_file():
        terminalreporter.section("live tests", red=True, bold=True)
        terminalreporter.line(SKIPPED.format(count=len(skipped)), red=True, bold=True)
