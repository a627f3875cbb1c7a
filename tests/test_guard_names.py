"""How guards are named, and the guard without a model."""

from __future__ import annotations

from typing import Any

import pytest

from guardmw.errors import GuardConfigError
from guardmw.guard import Guard, resolve_guard
from guardmw.policy.schema import Policy
from guardmw.testing import FakeGuard
from guardmw.types import Check, Verdict


async def test_the_guard_without_a_model_finds_nothing() -> None:
    guard = resolve_guard("detectors")
    verdict = await guard.check(Check("output", "anything"), Policy(id="p"))
    await guard.aclose()
    assert isinstance(guard, Guard)
    assert verdict == Verdict(guard="detectors", guard_version="1")


def test_a_guard_passes_through() -> None:
    guard = FakeGuard()
    assert resolve_guard(guard) is guard


@pytest.mark.parametrize("name", ["", "Embedded", "embedded ", "llama"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(GuardConfigError, match="embedded, embedded:URL, detectors"):
        resolve_guard(name)


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        (object(), "lacks check, aclose, name, version"),
        (None, "NoneType is no guard"),
        (FakeGuard, r"FakeGuard\(...\)"),
    ],
)
def test_what_is_no_guard_is_refused(what: Any, complaint: str) -> None:
    with pytest.raises(GuardConfigError, match=complaint):
        resolve_guard(what)
