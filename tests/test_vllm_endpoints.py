"""Several replicas: a stream stays with one, a failing one is left alone, and losing one costs no decision."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault_server import Fault, FaultServer, GuardModel
from guardmw.errors import GuardConfigError, GuardConnectionError, GuardTimeoutError
from guardmw.guard.endpoints import MAX_FAILURES, MAX_PAUSE_S, PROBE_S, Breaker, endpoints, masked, ranked
from guardmw.guard.replies import failure_of
from guardmw.guard.resilience import GuardRunner, ends_at_s
from guardmw.guard.vllm import VllmGuard
from guardmw.guard.wire import Deadline
from guardmw.policy.schema import Category, Limits, Policy
from guardmw.testing import FakeGuard
from guardmw.types import Check, Verdict

POLICY = Policy(
    id="p",
    categories=(Category(id="advice", title="Advice", unsafe_when="It advises."),),
    limits=Limits(deadline_ms=1000),
)
PATIENT = POLICY.model_copy(update={"limits": Limits(deadline_ms=60_000)})
"""Where time is not the question: on a busy machine an answer may take longer than a replica is given."""
URLS = st.lists(st.integers(1, 999).map(lambda port: f"http://h:{port}"), min_size=2, max_size=6, unique=True)


def check(stream: str, content: str = "Buy ACME.") -> Check:
    return Check("output", content, stream_id=stream)


@given(URLS, st.text(max_size=20))
def test_when_a_replica_is_gone_only_its_own_keys_move(urls: list[str], key: str) -> None:
    found = endpoints(urls)
    order = [endpoint.url for endpoint in ranked(found, key)]
    for gone in urls:
        left = [endpoint for endpoint in found if endpoint.url != gone]
        assert [endpoint.url for endpoint in ranked(left, key)] == [url for url in order if url != gone]


def test_keys_spread_over_replicas() -> None:
    found = endpoints([f"http://h:{port}" for port in range(1, 5)])
    first = Counter(ranked(found, f"stream{number}")[0].url for number in range(2000))
    assert len(first) == 4
    assert min(first.values()) > 400


@pytest.mark.parametrize(
    ("urls", "complaint"),
    [
        ("", "needs the URL"),
        ([], "needs the URL"),
        (" , ", "needs the URL"),
        ("localhost:8000", "no URL of a server"),
        ("ftp://h", "no URL of a server"),
        ("http://", "no URL of a server"),
        ("http://h:port", "is no URL"),
        ("http://h:1,http://h:1/v1/", "must differ"),
    ],
)
def test_urls_that_cannot_be_used(urls: str, complaint: str) -> None:
    with pytest.raises(GuardConfigError, match=complaint):
        endpoints(urls)


def test_secrets_in_urls_are_masked() -> None:
    [endpoint] = endpoints("https://me:pass@h/v1")
    assert endpoint.shown == "https://***@h"
    assert (endpoint.host, endpoint.port) == ("h", 443)
    assert "pass" not in repr(endpoint)
    assert masked("http://h:1/?api_key=x") == "http://h:1/"
    with pytest.raises(GuardConfigError) as error:
        endpoints("gopher://me:pass@h")
    assert "pass" not in str(error.value)


def test_a_breaker_opens_probes_and_closes() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(MAX_FAILURES):
        assert breaker.allows(now)
        breaker.failed(now)
    assert not breaker.allows(now + 0.4)
    assert breaker.allows(now + 0.6), "half open: one probe"
    assert not breaker.allows(now + 0.6), "and no second one"
    breaker.failed(now + 0.7)
    assert not breaker.allows(now + 1.6), "the pause doubled"
    assert breaker.allows(now + 1.8)
    breaker.succeeded()
    assert breaker.closed()
    assert breaker.allows(now + 1.8)


def test_a_probe_that_never_comes_back_is_given_up() -> None:
    breaker = Breaker(failures=3, open_until_s=1.0)
    assert breaker.allows(2.0)
    assert not breaker.allows(2.0 + PROBE_S / 2)
    assert breaker.allows(2.0 + PROBE_S)
    breaker.abandoned()
    assert breaker.allows(2.0 + PROBE_S), "a cancelled probe makes room for another"


def test_failures_of_calls_under_way_when_a_breaker_opened_change_nothing() -> None:
    breaker = Breaker()
    for _ in range(32):
        breaker.failed(0.0)
    assert breaker.open_until_s == 0.5
    breaker.failed(0.7)
    assert breaker.allows(0.7), "the pause is over, and no probe has failed"
    for _ in range(32):
        breaker.failed(1.0)
    assert breaker.open_until_s == 2.0, "one probe failed, so the pause doubled once"


@given(st.lists(st.booleans(), max_size=40))
def test_a_breaker_never_stays_open_for_longer_than_its_longest_pause(outcomes: list[bool]) -> None:
    breaker, now = Breaker(), 0.0
    for good in outcomes:
        now += MAX_PAUSE_S + PROBE_S
        assert breaker.allows(now)
        if good:
            breaker.succeeded()
        else:
            breaker.failed(now)
    assert breaker.allows(now + MAX_PAUSE_S + PROBE_S)


@pytest.fixture
async def replicas() -> AsyncIterator[list[FaultServer]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(FaultServer(GuardModel(lambda text: 0.9 if "ACME" in text else 0.1)))
            for _ in range(3)
        ]


@pytest.fixture
async def guard(replicas: list[FaultServer]) -> AsyncIterator[VllmGuard]:
    async with VllmGuard([server.url for server in replicas]) as made:
        yield made


def home_of(stream: str, replicas: list[FaultServer]) -> FaultServer:
    url = ranked(endpoints([server.url for server in replicas]), stream)[0].url
    return next(server for server in replicas if server.url == url)


async def test_a_stream_stays_with_its_replica(replicas: list[FaultServer], guard: VllmGuard) -> None:
    for number in range(40):
        for _ in range(3):
            await guard.check(check(f"s{number}"), PATIENT)
    assert sum(len(server.asked) for server in replicas) == 120
    assert all(len(server.asked) % 3 == 0 for server in replicas)
    assert sum(bool(server.asked) for server in replicas) == 3


@pytest.mark.parametrize("loss", ["down", "hang", "500", "half", "garbage", "429"])
async def test_losing_a_replica_costs_no_decision_and_less_than_a_deadline(
    replicas: list[FaultServer], guard: VllmGuard, loss: str
) -> None:
    home = home_of("s", replicas)
    faults = {
        "hang": Fault(hang=True),
        "500": Fault.error(500, "x"),
        "half": Fault(half=True),
        "garbage": Fault(body=b"?"),
        "429": Fault.error(429, "x", retry_after="30"),
    }
    await guard.check(check("s"), POLICY)
    home.always = faults.get(loss)
    if loss == "down":
        await home.stop()
    started = time.monotonic()
    verdicts = [await guard.check(check("s", content), POLICY) for content in ("Buy ACME.", "Hello.")]
    assert [round(verdict.findings[0].probability, 3) for verdict in verdicts] == [0.9, 0.1]
    assert time.monotonic() - started < 2 * 0.6


async def test_many_checks_survive_the_loss_of_a_replica_in_their_middle(
    replicas: list[FaultServer], guard: VllmGuard
) -> None:
    async def stream(number: int) -> list[float]:
        texts = ["Hello.", "Buy ACME."] * 5
        return [(await guard.check(check(f"s{number}", text), PATIENT)).findings[0].probability for text in texts]

    async def lose() -> None:
        await asyncio.sleep(0.03)
        await replicas[0].stop()

    *streams, _ = await asyncio.gather(*(stream(number) for number in range(24)), lose())
    assert all([round(p, 3) for p in probabilities or []] == [0.1, 0.9] * 5 for probabilities in streams)


async def test_a_hanging_replica_is_left_alone_after_a_few_checks(
    replicas: list[FaultServer], guard: VllmGuard
) -> None:
    home = home_of("s", replicas)
    home.always = Fault(hang=True)
    for _ in range(MAX_FAILURES):
        await guard.check(check("s"), POLICY)
    started = time.monotonic()
    await guard.check(check("s"), POLICY)
    assert time.monotonic() - started < 0.2


async def test_a_replica_that_comes_back_gets_its_streams_again(replicas: list[FaultServer], guard: VllmGuard) -> None:
    home = home_of("s", replicas)
    home.always = Fault.error(500, "x")
    for _ in range(MAX_FAILURES):
        await guard.check(check("s"), POLICY)
    home.always = None
    before = len(home.asked)
    await guard.check(check("s"), POLICY)
    assert len(home.asked) == before, "the breaker is open"
    await asyncio.sleep(0.55)
    await guard.check(check("s"), POLICY)
    await guard.check(check("s"), POLICY)
    assert len(home.asked) == before + 2


async def test_when_all_are_left_alone_the_error_comes_at_once(replicas: list[FaultServer], guard: VllmGuard) -> None:
    for server in replicas:
        server.always = Fault.error(500, "x")
    for _ in range(MAX_FAILURES):
        with pytest.raises(GuardConnectionError):
            await guard.check(check("s"), POLICY)
    started = time.monotonic()
    with pytest.raises(GuardConnectionError, match="left alone"):
        await guard.check(check("s"), POLICY)
    assert time.monotonic() - started < 0.45


async def test_a_text_that_breaks_servers_cuts_no_other_off(replicas: list[FaultServer], guard: VllmGuard) -> None:
    for server in replicas:
        server.always = Fault.error(500, "x")
    with pytest.raises(GuardConnectionError):
        await guard.check(check("s"), POLICY)
    assert sum(len(server.asked) for server in replicas) > MAX_FAILURES
    for server in replicas:
        server.always = None
    assert (await guard.check(check("s", "Hello."), POLICY)).findings[0].probability == pytest.approx(0.1)


async def test_waiting_for_a_turn_leaves_time_for_another_replica(
    replicas: list[FaultServer], guard: VllmGuard
) -> None:
    """The second check waits for the first one, which half of the deadline passes over."""
    home_of("s", replicas).always = Fault(hang=True)
    runner = GuardRunner(guard, 1)
    verdicts = await asyncio.gather(*(runner.check(check("s"), POLICY) for _ in range(2)))
    assert [round(verdict.findings[0].probability, 3) for verdict in verdicts] == [0.9, 0.9]
    assert sum(endpoint.breaker.failures for endpoint in guard._wire.endpoints) == 2


async def test_a_replica_that_was_given_no_time_is_not_blamed(replicas: list[FaultServer], guard: VllmGuard) -> None:
    for server in replicas:
        server.always = Fault(hang=True)
    late = Deadline(asyncio.get_running_loop().time() + 0.1, 10.0)
    with pytest.raises(GuardTimeoutError):
        await guard._wire.post("/v1/chat/completions", {}, key="s", deadline=late, headers={})
    assert [endpoint.breaker.failures for endpoint in guard._wire.endpoints] == [0, 0, 0]


async def test_the_runner_s_deadline_holds_for_its_own_check_only() -> None:
    class Looks(FakeGuard):
        async def check(self, check: Check, policy: Policy) -> Verdict:
            await asyncio.sleep(0.05)
            ends.extend(ends_at_s(each, policy) for each in (check, Check("output", "another")))
            return await super().check(check, policy)

    ends: list[float] = []
    began = asyncio.get_running_loop().time()
    await GuardRunner(Looks()).check(check("s"), POLICY)
    assert ends[0] == pytest.approx(began + 1.0, abs=0.04)
    assert ends[1] >= began + 1.05
    assert ends_at_s(check("s"), POLICY) > ends[0]


async def test_a_server_that_comes_back_with_another_model_is_asked_for_its_name_again() -> None:
    async with FaultServer(GuardModel(0.1), models=("old",)) as server, VllmGuard(server.url) as guard:
        await guard.check(check("s"), POLICY)
        server.models = ("new",)
        for _ in range(2):
            await guard.check(check("s"), POLICY)
        assert [seen.body["model"] for seen in server.asked] == ["old", "old", "new", "new"]


async def test_a_route_that_is_missing_is_told() -> None:
    async with FaultServer(GuardModel(0.1)) as server, VllmGuard(server.url) as guard:
        server.always = Fault.error(404, "Not Found")
        with pytest.raises(GuardConfigError, match="no such route"):
            await guard.check(check("s"), POLICY)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("said", "after_s"),
    [
        ("7", 7.0), (" 7 ", 7.0), ("\u00b2", None), ("-1", None), ("soon", None), ("", None),
        ("Mon, 1 Jan 2024 00:00:00 GMT", 0.0), ("Mon, 1 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 1 Jan 2024 00:00:00 +99999999999999999999", None),
    ],
)  # fmt: skip
def test_how_long_a_server_wants_to_be_left_alone(said: str, after_s: float | None) -> None:
    assert failure_of(429, {"retry-after": said}, b"", "here").retry_after_s == after_s
