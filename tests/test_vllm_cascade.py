"""The cascade and how guards on servers are named."""

from __future__ import annotations

from typing import Any

import pytest

import guardmw.guard as guards
from fault_server import FaultServer, GuardModel
from guardmw import Checker
from guardmw.errors import GuardConfigError, GuardConnectionError
from guardmw.guard import resolve_guard
from guardmw.guard.base import Preparing
from guardmw.guard.cascade import CascadeGuard
from guardmw.guard.vllm import VllmGuard
from guardmw.policy.schema import Category, Policy
from guardmw.testing import FakeGuard
from guardmw.types import Check

CATEGORY = Category(id="advice", title="Advice", unsafe_when="It advises.", ask_above=0.4, block_above=0.8)
POLICY = Policy(id="p", categories=(CATEGORY,))


def fake(probability: float, name: str, **options: Any) -> FakeGuard:
    return FakeGuard(lambda _: probability, name=name, **options)


@pytest.mark.parametrize(
    ("probability", "escalates"), [(0.01, False), (0.12, False), (0.15, True), (0.6, True), (0.93, True), (0.97, False)]
)
async def test_what_lies_near_a_threshold_goes_on_to_the_second(probability: float, escalates: bool) -> None:
    cascade = CascadeGuard(fake(probability, "quick"), fake(0.5, "thorough"))
    verdict = await cascade.check(Check("output", "x"), POLICY)
    assert [finding.source for finding in verdict.findings] == ["guard:thorough" if escalates else "guard:quick"]
    assert verdict.findings[0].probability == (0.5 if escalates else probability)
    assert (cascade.judged, cascade.escalated) == (1, int(escalates))
    assert (verdict.guard, verdict.guard_version) == ("cascade", cascade.version)


async def test_strictness_moves_the_band() -> None:
    strict = Policy(id="p", categories=(CATEGORY,), strictness=1.0)
    cascade = CascadeGuard(fake(0.04, "quick"), fake(0.5, "thorough"))
    await cascade.check(Check("output", "x"), POLICY)
    assert cascade.escalation_rate == 0.0
    await cascade.check(Check("output", "x"), strict)
    assert cascade.escalation_rate == 0.5


async def test_a_failing_second_stage_is_a_failing_guard() -> None:
    cascade = CascadeGuard(fake(0.5, "quick"), fake(0.5, "thorough", fail="error"))
    with pytest.raises(GuardConnectionError):
        await cascade.check(Check("output", "x"), POLICY)
    decision = await Checker(POLICY, guard=cascade).check(Check("output", "x"))
    assert decision.action == "block"
    assert decision.verdict.error == "connect_error"


def test_both_stages_get_ready_for_a_policy() -> None:
    class Ready(FakeGuard):
        def prepare(self, policy: Policy) -> None:
            told.append(f"{self.name} {policy.id}")

    told: list[str] = []
    for first, second in ((Ready(name="quick"), FakeGuard()), (FakeGuard(), Ready(name="thorough"))):
        cascade = CascadeGuard(first, second)
        assert isinstance(cascade, Preparing)
        cascade.prepare(POLICY)
    assert told == ["quick p", "thorough p"]


async def test_closing_closes_both() -> None:
    first, second = fake(0.5, "quick"), fake(0.5, "thorough")
    await CascadeGuard(first, second).aclose()
    assert first.closed
    assert second.closed


@pytest.mark.parametrize("band", [-1.0, float("nan"), float("inf")])
def test_a_band_is_a_number_of_logits(band: float) -> None:
    with pytest.raises(ValueError, match="band is a number"):
        CascadeGuard(FakeGuard(), FakeGuard(), band=band)


async def test_the_cascade_counts_the_cost_of_its_server() -> None:
    async with FaultServer(GuardModel(0.9)) as server, VllmGuard(server.url) as second:
        verdict = await CascadeGuard(fake(0.5, "quick"), second).check(Check("output", "x"), POLICY)
    assert verdict.tokens.prompt == 100
    assert verdict.findings[0].source == "guard:vllm"


# Names.


def test_a_url_with_options_names_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDMW_GUARD_API_KEY", "k-env")
    guard = resolve_guard(
        "vllm:http://me:pass@a:1,http://b:2/v1?model=m&family=qwen3guard-gen&explain=uncertain&tenant=t&priority=3"
        "&temperature=1.5&bias=-0.5&map.PII=privacy&map.Jailbreak="
    )
    assert isinstance(guard, VllmGuard)
    assert (guard.model, guard.family.name, guard.explain) == ("m", "qwen3guard-gen", "uncertain")
    assert (guard.calibration.temperature, guard.calibration.bias) == (1.5, -0.5)
    assert repr(guard) == (
        "VllmGuard(http://***@a:1, http://b:2, model='m', family='qwen3guard-gen', explain='uncertain')"
    )
    assert "k-env" not in repr(vars(guard))
    assert "pass" not in repr(guard)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("vllm:", "needs the URL"),
        ("vllm:localhost", "no URL of a server"),
        ("vllm:http://a?modle=m", "no option 'modle'"),
        ("vllm:http://a?model=m&model=n", "given twice"),
        ("vllm:http://a?model=", "is empty"),
        ("vllm:http://a?model", "can't be read"),
        ("vllm:http://a?explain=sometimes", "never, uncertain, always"),
        ("vllm:http://a?family=bert", "no guard family 'bert'"),
        ("vllm:http://a?temperature=0", "above 0"),
        ("vllm:http://a?temperature=hot", "must be a number"),
        ("vllm:http://a?priority=high", "must be a number"),
        ("vllm:http://a?family=classifier", "in order, safe and unsafe ones"),
        ("cascade:", "needs the URL"),
    ],
)
def test_names_that_cannot_be_used_say_why(spec: str, complaint: str) -> None:
    with pytest.raises(GuardConfigError, match=complaint):
        resolve_guard(spec)


def test_secrets_are_not_repeated_in_errors() -> None:
    for spec in ("vllm:http://me:pass@a?api_key=k-1&x=1", "vlmm:http://me:pass@a?api_key=k-1", "vllm:ftp://me:pass@a"):
        with pytest.raises(GuardConfigError) as error:
            resolve_guard(spec)
        assert "pass" not in str(error.value)
        assert "k-1" not in str(error.value)


def test_the_server_is_where_the_environment_says_or_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDMW_GUARD_URL", "vllm:http://a:1?model=m")
    assert repr(resolve_guard("vllm")).startswith("VllmGuard(http://a:1, model='m'")
    monkeypatch.delenv("GUARDMW_GUARD_URL")
    assert repr(resolve_guard("vllm")).startswith("VllmGuard(http://127.0.0.1:8000,")


@pytest.mark.parametrize("name", ["cascade", "cascade:http://a:1", "cascade:vllm:http://a:1"])
def test_a_cascade_is_one_line_of_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = guards._named
    monkeypatch.setattr(guards, "_named", lambda asked: FakeGuard() if asked == "embedded" else named(asked))
    monkeypatch.setenv("GUARDMW_GUARD_URL", "http://a:1")
    guard = resolve_guard(name)
    assert isinstance(guard, CascadeGuard)
    assert repr(guard.second).startswith("VllmGuard(http://a:1,")
