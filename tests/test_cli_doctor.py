"""`guardmw doctor`: what it finds, and that it would find it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guardmw.cli import app
from guardmw.commands import _examinations
from guardmw.commands._examinations import FORBIDDEN, CountingGuard, Patient, Result
from guardmw.policy.schema import Category, Detectors, PiiDetector, Policy
from guardmw.testing import FakeGuard
from guardmw.types import Check

POLICY = Policy(id="p", categories=(Category(id="c", title="C", unsafe_when="Bad."),))


def test_a_healthy_installation() -> None:
    result = CliRunner().invoke(app, ["doctor", "--guard", "detectors", "--policy", "support", "--json"])
    shown = json.loads(result.stdout)
    by_subject = {each["subject"]: each for each in shown["results"]}
    assert result.exit_code == 0, result.stdout
    assert shown["healthy"] is True
    for subject in ("packages", "bundled policies", "guard", "agent, ainvoke", "agent, astream messages"):
        assert by_subject[subject]["health"] == "ok"
    assert "checks for one answer" in by_subject["guard is called"]["found"]
    assert "ms a check" in by_subject["guard latency"]["found"]
    assert "support" in by_subject["bundled policies"]["found"]


def test_people_see_a_table_and_failures_make_it_exit_1(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 1\nid: broken\nagnets: [x]\n")
    result = CliRunner().invoke(app, ["doctor", "--guard", "magic", "--policy", str(broken)])
    assert result.exit_code == 1
    assert "agnets" in result.stdout
    assert "there is no guard called 'magic'" in result.stdout
    assert "✗" in result.stdout
    assert "failed" in result.stdout.splitlines()[-1]


def test_a_leak_would_be_found() -> None:
    assert _examinations._blocked("agent", f"... {FORBIDDEN} ...", POLICY).health == "failed"
    assert _examinations._blocked("agent", "", POLICY).health == "failed"
    assert _examinations._blocked("agent", POLICY.messages.blocked, POLICY).health == "ok"


def test_a_guard_that_is_never_called_is_an_alarm() -> None:
    result = _examinations._called(CountingGuard(FakeGuard()), POLICY)
    assert result.health == "failed"
    assert result.found.startswith("ALARM")


def test_a_policy_without_categories_needs_no_guard() -> None:
    policy = Policy(id="p", detectors=Detectors(pii=PiiDetector()))
    assert _examinations._called(CountingGuard(FakeGuard()), policy).health == "warning"


async def test_calls_are_counted_and_passed_on() -> None:
    fake = FakeGuard()
    counting = CountingGuard(fake)
    await counting.check(Check("output", "x"), POLICY)
    await counting.aclose()
    assert (counting.calls, len(fake.checks), fake.closed) == (1, 1, True)


def test_what_came_before_an_error_is_kept() -> None:
    def broken(patient: Patient) -> Iterator[Result]:
        yield Result("first", "ok", "fine")
        raise OSError("disk on fire")

    first, second = _examinations._safely(broken, Patient("base", "detectors"))
    assert first.health == "ok"
    assert (second.subject, second.health, second.found) == ("broken", "failed", "OSError: disk on fire")


@pytest.mark.parametrize("extra", ["otel", "langgraph", "vllm"])
def test_requirements_are_read_from_the_package(extra: str) -> None:
    wanted = _examinations._requirements()
    assert "pydantic" in wanted[""]
    assert wanted[extra]
    assert "dev" not in wanted
