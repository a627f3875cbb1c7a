"""Real vLLMs for the live tests, started as users start them: two with the tiny guard, two on the pooling runner.

Most of the time goes into training and starting, so what the run needs starts side by side.

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
from live.server import READY, LiveServer, Starting, starting
from tiny_guard.build import VLLM_PYTHON, build, build_adapter

EAGER = ("--", "--enforce-eager")
"""Compiling would take longer than all the tests."""
MAIN = ("--max-model-len", "8192")
SKIPPED = "NO REAL vLLM WAS TESTED: {count} live tests were skipped, since .venv-vllm is missing. `make vllm` makes it."


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python of vLLM's environment."""
    if not READY.is_file():
        pytest.skip("no .venv-vllm: run `make vllm`")
    return VLLM_PYTHON


@pytest.fixture(scope="session")
def tiny_guard(vllm_python: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of the tiny guard's model; trained first when it isn't there yet, while others start."""
    if _wanted(request, "pooling_servers"):
        request.getfixturevalue("pooling_starting")
    return build(vllm_python)


@pytest.fixture(scope="session")
def tiny_starting(tiny_guard: Path, request: pytest.FixtureRequest) -> Iterator[list[Starting]]:
    """Two vLLMs with the tiny guard on their way, or one where no test wants the second."""
    second = (tiny_guard, "--max-model-len", "4096", "--no-lora", *EAGER)
    with starting((tiny_guard, *MAIN), *[second] * _wanted(request, "second_server")) as servers:
        yield servers


@pytest.fixture(scope="session")
def vllm_server(tiny_starting: list[Starting]) -> LiveServer:
    """A running vLLM with the tiny guard."""
    return tiny_starting[0].ready()


@pytest.fixture(scope="session")
def second_server(tiny_starting: list[Starting]) -> LiveServer:
    """Another one with the same guard, which a test may end."""
    return tiny_starting[1].ready()


@pytest.fixture(scope="session")
def dragons_allowed(tiny_guard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for the tiny guard that has learned to let the trade in dragons pass."""
    return build_adapter(tiny_guard, tmp_path_factory.mktemp("adapter"), "dragon_trade")


@pytest.fixture(scope="session")
def pooling_starting(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Starting]]:
    """Two vLLMs on the pooling runner on their way: a tiny classifier, and the embedded guard's encoder."""
    folder = tmp_path_factory.mktemp("pooling")
    make = [str(vllm_python), str(Path(__file__).with_name("classifier.py")), str(folder / "classifier")]
    subprocess.run(make, check=True, capture_output=True)
    export_encoder(bundled_weights(), folder / "encoder")
    with starting((folder / "classifier", *EAGER), (folder / "encoder", *EAGER)) as servers:
        yield servers


@pytest.fixture(scope="session")
def pooling_servers(pooling_starting: list[Starting]) -> tuple[LiveServer, ...]:
    """The classifier's and the encoder's server, running."""
    return tuple(each.ready() for each in pooling_starting)


def _wanted(request: pytest.FixtureRequest, fixture: str) -> bool:
    """Whether any test of this run asks for `fixture`."""
    return any(fixture in getattr(item, "fixturenames", ()) for item in request.session.items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if any(name == "live" and part.startswith("vllm") for name, part in report.user_properties)
    ]
    if skipped and not READY.is_file():
        terminalreporter.section("live tests", red=True, bold=True)
        terminalreporter.line(SKIPPED.format(count=len(skipped)), red=True, bold=True)
