"""Which policy an agent gets, and reloading."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from guardmw.errors import PolicyError, UnknownAgentError
from guardmw.policy import Policy, PolicySet, load_policies, parse_policy


def policy(policy_id: str, *agents: str) -> Policy:
    return Policy(id=policy_id, agents=agents)


def test_exact_names_then_the_most_specific_pattern_then_the_default() -> None:
    policies = PolicySet(
        [policy("exact", "shop-eu"), policy("wide", "shop*"), policy("narrow", "shop-*"), policy("default")]
    )
    agents = ("shop-eu", "shop-us", "shopping", "bank", "Shop-eu", "")
    found = [policies.for_agent(agent).id for agent in agents]
    assert found == ["exact", "narrow", "wide", "default", "default", "default"]


def test_an_unknown_agent_is_refused_with_the_patterns_known() -> None:
    policies = PolicySet([policy("a", "shop*"), policy("b", "bank")])
    with pytest.raises(UnknownAgentError, match=r"'stock'.*bank, shop\*"):
        policies.for_agent("stock")


def test_a_set_of_one_without_agents_holds_for_all_agents() -> None:
    assert PolicySet([policy("a")]).for_agent("anyone").id == "a"
    with pytest.raises(UnknownAgentError):
        PolicySet([policy("a"), policy("b")]).for_agent("anyone")


def test_a_set_of_one_holds_for_the_agent_nobody_named() -> None:
    policies = PolicySet([policy("a", "shop*")])
    assert policies.for_agent("default").id == "a"
    with pytest.raises(UnknownAgentError):
        policies.for_agent("bank")


@pytest.mark.parametrize(
    ("one", "other"),
    [("shop", "shop"), ("shop*", "*shop"), ("shop*", "shop*"), ("a?", "?a"), ("[ab]x", "[bc]x"), ("[a-m]", "[!a-c]")],
)
def test_rivals_are_refused_at_load(one: str, other: str) -> None:
    with pytest.raises(PolicyError, match=r"'first'.*match the same agents") as caught:
        PolicySet([policy("first", one), policy("second", other)])
    assert caught.value.key == "agents.0"
    assert "'second'" in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("support*", "finance*"),
        ("shop", "shop*"),
        ("a?", "b?"),
        ("[ab]x", "[cd]x"),
        ("a*b", "c*b"),
        ("?", "??"),
        ("*", "a*"),
    ],
)
def test_patterns_that_never_meet_or_differ_in_length_are_no_rivals(one: str, other: str) -> None:
    assert list(PolicySet([policy("first", one), policy("second", other)]).policies) == ["first", "second"]


def test_rivals_in_files_are_placed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("id: a\nagents: [shop]\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("id: b\nagents:\n  - bank\n  - shop\n", encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_policies(tmp_path)
    assert (Path(caught.value.file or "").name, caught.value.line, caught.value.key) == ("b.yaml", 4, "agents.1")


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(PolicyError, match="no policy given"):
        PolicySet([])


def test_what_policies_returns_cannot_change_the_set() -> None:
    policies = PolicySet([policy("a")])
    policies.policies.clear()
    assert list(policies.policies) == ["a"]
    assert repr(policies) == "PolicySet(a)"


class TestReload:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "shop.yaml"
        self.write(path, "id: shop\nstrictness: 0.1\n")
        return path

    def write(self, path: Path, text: str, age_s: float = 10.0) -> None:
        """Writes `text` as if it had been there for `age_s`."""
        path.write_text(text, encoding="utf-8")
        then_s = path.stat().st_mtime - age_s
        os.utime(path, (then_s, then_s))

    def test_nothing_changed(self, file: Path) -> None:
        policies = load_policies(file)
        before = policies.for_agent("x")
        assert not policies.stale()
        assert not policies.reload()
        assert policies.for_agent("x") is before

    def test_a_changed_file_takes_effect(self, file: Path) -> None:
        policies = load_policies(file)
        self.write(file, "id: shop\nstrictness: 0.9\n")
        assert policies.stale()
        assert policies.reload()
        assert policies.for_agent("x").strictness == 0.9
        assert not policies.reload()

    def test_a_change_right_after_reading_is_seen_though_size_and_time_are_the_same(self, tmp_path: Path) -> None:
        file = tmp_path / "shop.yaml"
        file.write_text("id: shop\nstrictness: 0.1\n", encoding="utf-8")
        policies, written = load_policies(file), file.stat()
        file.write_text("id: shop\nstrictness: 0.9\n", encoding="utf-8")
        os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
        assert policies.reload()

    def test_touching_a_file_replaces_nothing(self, file: Path) -> None:
        policies = load_policies(file)
        before = policies.for_agent("x")
        os.utime(file)
        assert policies.stale()
        assert not policies.reload()
        assert policies.for_agent("x") == before

    def test_a_bad_file_keeps_all_old_policies_and_says_so_once(
        self, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = file.with_name("bank.yaml")
        self.write(other, "id: bank\nagents: [bank]\nstrictness: 0.2\n")
        policies = load_policies(file.parent)
        self.write(file, "id: shop\nstrictnes: 0.9\n", age_s=8)
        self.write(other, "id: bank\nagents: [bank]\nstrictness: 0.8\n", age_s=8)
        with caplog.at_level(logging.WARNING, logger="guardmw.policy"):
            assert not policies.reload()
            os.utime(file)
            assert not policies.reload()
        assert policies.for_agent("bank").strictness == 0.2
        assert [record.name for record in caplog.records] == ["guardmw.policy"]
        assert "shop.yaml:2 [strictnes]" in caplog.text
        assert policies.last_error is not None
        assert policies.last_error.line == 2

        self.write(file, "id: shop\nstrictness: 0.9\n", age_s=5)
        assert policies.reload()
        assert policies.last_error is None
        assert policies.for_agent("bank").strictness == 0.8

    def test_a_bad_file_is_not_read_again_until_it_changes(self, file: Path) -> None:
        policies = load_policies(file)
        self.write(file, "id: [", age_s=8)
        policies.reload()
        assert not policies.stale()

    def test_a_file_that_is_gone_keeps_the_old_policies(self, file: Path) -> None:
        policies = load_policies(file)
        file.unlink()
        assert not policies.reload()
        assert policies.last_error is not None
        assert policies.for_agent("x").strictness == 0.1
        self.write(file, "id: shop\nstrictness: 0.9\n")
        assert policies.reload()

    def test_files_of_a_directory_come_and_go(self, file: Path) -> None:
        policies = load_policies(file.parent)
        bank = file.with_name("bank.yaml")
        self.write(bank, "id: bank\n")
        assert policies.reload()
        assert set(policies.policies) == {"bank", "shop"}
        bank.unlink()
        assert policies.reload()
        assert set(policies.policies) == {"shop"}

    def test_a_changed_parent_takes_effect(self, file: Path) -> None:
        child = file.with_name("child.yaml")
        self.write(child, "id: child\nextends: [shop]\n")
        policies = load_policies(child)
        self.write(file, "id: shop\nstrictness: 0.9\n")
        assert policies.reload()
        assert policies.for_agent("x").strictness == 0.9

    def test_a_parent_that_appears_after_a_failure_is_found(self, file: Path) -> None:
        policies = load_policies(file)
        self.write(file, "id: shop\nextends: [late]\n", age_s=8)
        assert not policies.reload()
        self.write(file.with_name("late.yaml"), "id: late\nstrictness: 0.9\n")
        assert policies.reload()
        assert policies.for_agent("x").strictness == 0.9

    def test_due_looks_at_the_clock_only(self, file: Path) -> None:
        policies = load_policies(file)
        assert not policies.due(interval_s=3600)
        assert policies.due(interval_s=0)
        assert not PolicySet([policy("a")]).due(interval_s=0)
        assert not PolicySet([policy("a")]).reload()

    def test_readers_never_see_half_a_set(self, file: Path) -> None:
        other = file.with_name("bank.yaml")
        self.write(other, "id: bank\nagents: [bank]\nstrictness: 0.1\n")
        policies = load_policies(file.parent)
        seen, stop = set(), threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.add(tuple(one.strictness for one in policies.policies.values()))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for round_number in range(1, 20):
            strictness = round_number / 20
            self.write(file, f"id: shop\nstrictness: {strictness}\n", age_s=round_number)
            self.write(other, f"id: bank\nagents: [bank]\nstrictness: {strictness}\n", age_s=round_number)
            policies.reload()
        stop.set()
        for reader in readers:
            reader.join()
        assert len(seen) > 1
        assert all(len(set(pair)) == 1 for pair in seen)


def test_parse_policy_needs_no_files() -> None:
    assert parse_policy("id: a\nagents: [x]").agents == ("x",)
