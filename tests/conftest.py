"""What holds for every test: no network, no blocked event loop, no telemetry left over, no settings from outside."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings
from opentelemetry import context as otel_context

from guardmw.guard.embedded import EmbeddedGuard
from guardmw.policy.detectors import detectors_for
from guardmw.policy.schema import Detectors, PiiDetector, Policy, SecretsDetector
from network_guard import guarded_network

SETTINGS_FROM_OUTSIDE = ("LANGCHAIN_", "LANGSMITH_", "OTEL_", "OPENAI_", "ANTHROPIC_", "GUARDMW_")

settings.register_profile("dev", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", settings.get_profile("dev"), max_examples=150, derandomize=True, database=None, print_blob=True
)


# What the first Checker with detectors loads when it is built, so that no test counts it as blocking.
detectors_for(Policy(id="all", detectors=Detectors(pii=PiiDetector(), secrets=SecretsDetector())), "output")


def pytest_configure() -> None:
    for name in [name for name in os.environ if name.startswith(SETTINGS_FROM_OUTSIDE)]:
        del os.environ[name]
    settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write the part each live test runs into the report, where `.ci/run` looks for it."""
    for item in items:
        item.user_properties += [("live", part) for mark in item.iter_markers("live") for part in mark.args]


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """An attempt to leave this machine fails the test, even where the code under test swallows the error."""
    with guarded_network() as attempts:
        yield
    assert not attempts, f"this test tried to reach {attempts}; use a fake at the seam, or a server on loopback"


@pytest.fixture(autouse=True, scope="session")
def _blocked_loop_fails() -> Iterator[BlockBuster]:
    """A blocking call made by our code while an event loop runs in that thread raises BlockingError.

    Only stacks with our code in them count: test helpers, pytest and the frameworks may do on their own what they like.
    """
    with blockbuster_ctx(["guardmw", "guardmw_langgraph"]) as detector:
        yield detector


@pytest.fixture
def blocking_allowed(_blocked_loop_fails: BlockBuster) -> Iterator[None]:
    """For tests whose caller blocks the event loop knowingly."""
    _blocked_loop_fails.deactivate()
    yield
    _blocked_loop_fails.activate()


@pytest.fixture(autouse=True)
def _fresh_telemetry_context() -> Iterator[None]:
    """Every test starts without a current span, and fails when a span was detached in the wrong context."""
    complaints = _Complaints()
    logger = logging.getLogger("opentelemetry.context")
    logger.addHandler(complaints)
    token = otel_context.attach(otel_context.Context())
    yield
    otel_context.detach(token)
    logger.removeHandler(complaints)
    assert not complaints.messages, f"telemetry context misused: {complaints.messages}"


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
async def guard() -> AsyncIterator[EmbeddedGuard]:
    """The embedded guard with the weights of the package; where another one is tested, the file has its own."""
    # Built in a thread as `blockbuster` would have it: weights are files.
    built = await asyncio.to_thread(EmbeddedGuard)
    yield built
    await built.aclose()
