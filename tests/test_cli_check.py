"""`guardmw check`, from arguments to exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from guardmw.cli import app

CARD = "my card is 4111 1111 1111 1111"
POLICY = """
version: 1
id: shop
agents: ["shop*"]
mode: {mode}
detectors:
  pii: {{entities: [email], action: redact}}
  secrets: {{action: block}}
  patterns: [{{id: codename, pattern: "Bluebird", action: flag}}]
tools:
  rules:
    - {{tool: "delete_*", action: deny}}
    - {{tool: "pay", action: ask}}
"""
KEY = "AKIAIOSFODNN7EXAMPLE"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "shop.yaml"
    path.write_text(POLICY.format(mode="enforce"))
    return str(path)


def run(*arguments: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["check", "--guard", "detectors", *arguments], input=text)


def report(*arguments: str, text: str | bytes | None = None) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(run(*arguments, "--json", text=text).stdout)
    return shown


def test_a_card_is_redacted_under_the_support_policy() -> None:
    result = run(CARD, "--policy", "support", "--json")
    shown = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (shown["action"], shown["enforced"], shown["mode"]) == ("redact", "redact", "enforce")
    assert "4111" not in shown["text"]
    assert shown["text"].startswith("my card is [")
    (finding,) = shown["findings"]
    assert finding["category"] == "credit_card"
    assert finding["source"] == "detector:pii.credit_card"
    assert CARD[slice(*finding["span"])] == "4111 1111 1111 1111"
    assert shown["policy"]["id"] == "support"
    assert len(shown["policy"]["hash"]) == 16
    assert shown["guard"] == {"name": "detectors", "version": "1"}
    assert shown["tokens"] == {"prompt": 0, "cached": 0, "completion": 0}
    assert shown["duration_ms"] > 0


@pytest.mark.parametrize(
    ("text", "action", "code"),
    [
        ("a harmless sentence", "allow", 0),
        ("the Bluebird flies", "flag", 0),
        ("write to jo@example.com", "redact", 1),
        (f"the key is {KEY}", "block", 1),
    ],
)
def test_exit_codes_follow_the_action(policy: str, text: str, action: str, code: int) -> None:
    result = run(text, "--policy", policy, "--json")
    assert (json.loads(result.stdout)["action"], result.exit_code) == (action, code)


def test_a_blocked_text_shows_the_policys_message_instead(policy: str) -> None:
    shown = report(f"the key is {KEY}", "--policy", policy)
    assert shown["text"] == "I can't help with that."


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_text_may_come_from_standard_input(policy: str, arguments: list[str]) -> None:
    shown = report(*arguments, "--policy", policy, text="write to jo@example.com\n")
    assert shown["text"] == "write to [EMAIL]\n"


def test_bytes_that_are_no_text_are_checked_too(policy: str) -> None:
    assert report("--policy", policy, text=b"\xff\xfe jo@example.com")["action"] == "redact"


def test_lone_surrogates_and_empty_texts_are_checked_too(policy: str) -> None:
    assert report("a\ud800 jo@example.com", "--policy", policy)["text"] == "a\ud800 [EMAIL]"
    assert report("", "--policy", policy)["action"] == "allow"
    assert run("a\ud800\x1b[2J jo@example.com", "--policy", policy).exit_code == 1


def test_in_shadow_mode_the_text_stays_and_the_exit_code_tells(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(POLICY.format(mode="shadow"))
    result = run("jo@example.com", "--policy", str(tmp_path / "shop.yaml"), "--json")
    shown = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (shown["action"], shown["enforced"], shown["text"]) == ("redact", "allow", "jo@example.com")


@pytest.mark.parametrize(("tool", "action"), [("delete_all", "block"), ("pay", "ask"), ("look_up", "allow")])
def test_a_tool_call_is_checked_against_the_rules(policy: str, tool: str, action: str) -> None:
    assert report('{"id": 1}', "--policy", policy, "--surface", "tool_call", "--tool", tool)["action"] == action


def test_a_tool_call_needs_its_tool(policy: str) -> None:
    result = run("{}", "--policy", policy, "--surface", "tool_call")
    assert result.exit_code == 2
    assert "--tool" in result.stderr


def test_the_agent_chooses_the_policy(policy: str) -> None:
    folder = str(Path(policy).parent)
    (Path(folder) / "other.yaml").write_text("version: 1\nid: other\nagents: [other]\ndetectors: {secrets: {}}\n")
    assert report("x", "--policy", folder, "--agent", "shop-7")["policy"]["id"] == "shop"
    unknown = run("x", "--policy", folder, "--agent", "nobody")
    assert unknown.exit_code == 2
    assert "'nobody'" in unknown.stderr


def test_people_see_the_action_the_finding_and_the_reason(policy: str) -> None:
    result = run("write to jo@example.com", "--policy", policy)
    assert result.exit_code == 1
    for part in ("redact", "write to jo@example.com", "write to [EMAIL]", "9 to 23", "detector:pii.email", "why:"):
        assert part in result.stdout


def test_a_surface_that_does_not_exist_is_refused() -> None:
    result = run("x", "--surface", "thought")
    assert result.exit_code == 2
    assert "reasoning" in result.stderr
