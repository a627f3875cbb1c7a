"""Real vLLMs for the live tests, started as users start them: one with the tiny guard, two on the pooling runner.

Modules that use them carry `pytestmark = live_vllm(...)` (tests/live/server.py). Without `.venv-vllm` they are skipped,
and the last lines of the run say so; `.ci/run` fails then.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardmw.guard.embedded import bundled_weights
from guardmw.guard.export import export_encoder
from live.server import READY, LiveServer, serving
from tiny_guard.build import VLLM_PYTHON, build

SKIPPED = "NO REAL vLLM WAS TESTED: {count} live tests were skipped, since .venv-vllm is missing. `make vllm` makes it."


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python of vLLM's environment."""
    if not READY.is_file():
        pytest.skip("no .venv-vllm: run `make vllm`")
    return VLLM_PYTHON


@pytest.fixture(scope="session")
def tiny_guard(vllm_python: Path) -> Path:
    """The folder of the tiny guard's model; trained first when it isn't there yet."""
    return build(vllm_python)


@pytest.fixture(scope="session")
def vllm_server(tiny_guard: Path) -> Iterator[LiveServer]:
    """A running vLLM with the tiny guard, started by `guardmw guard serve`."""
    with serving((tiny_guard, "--max-model-len", "8192")) as (server,):
        yield server


@pytest.fixture(scope="session")
def pooling_servers(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, ...]]:
    """Two running vLLMs on the pooling runner: a tiny classifier, and the embedded guard's encoder."""
    folder = tmp_path_factory.mktemp("pooling")
    make = [str(vllm_python), str(Path(__file__).with_name("classifier.py")), str(folder / "classifier")]
    subprocess.run(make, check=True, capture_output=True)
    export_encoder(bundled_weights(), folder / "encoder")
    # Compiling would take longer than all the tests.
    with serving(*((folder / name, "--", "--enforce-eager") for name in ("classifier", "encoder"))) as servers:
        yield tuple(servers)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if any(name == "live" and part.startswith("vllm") for name, part in report.user_properties)
    ]
    if skipped and not READY.is_file():
        terminalreporter.section("live tests", red=True, bold=True)
        terminalreporter.line(SKIPPED.format(count=len(skipped)), red=True, bold=True)
