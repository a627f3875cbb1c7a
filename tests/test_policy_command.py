"""`guardmw policy lint | show | schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from guardmw.commands.policy import policy_app
from guardmw.policy import bundled_dir, load_policies

GOOD = (
    "id: shop\ncategories: [{id: rude, title: Rude, unsafe_when: The text insults someone who is going to read it.}]\n"
)


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(policy_app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def call_json(*arguments: str) -> tuple[int, Any]:
    code, out, _ = call(*arguments, "--json")
    return code, json.loads(out)


def write(directory: Path, text: str, name: str = "shop.yaml") -> str:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_lint_of_the_bundled_policies_finds_nothing() -> None:
    files = [str(path) for path in sorted(bundled_dir().glob("*.yaml"))]
    assert call("lint", *files, "--strict")[:2] == (0, "0 errors, 0 warnings\n")


def test_lint_warns_and_fails_only_when_strict(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "streaming: {mode: pass}\n")
    assert call("lint", path)[0] == 0
    code, report = call_json("lint", path, "--strict")
    assert (code, report["errors"], report["warnings"]) == (1, 0, 1)
    assert report["remarks"][0]["key"] == "streaming.mode"


def test_lint_finds_errors_of_policies_that_load(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "tools: {rules: [{tool: '*'}, {tool: x, action: deny}]}\n")
    code, out, _ = call("lint", path)
    assert code == 1
    assert "shop [tools.rules.1] never reached" in out


def test_lint_places_the_mistakes_of_policies_that_do_not_load(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "streming: {}\nmode: strict\n")
    code, report = call_json("lint", path)
    assert code == 1
    assert [(one["file"], one["line"], one["key"]) for one in report["remarks"]] == [
        (path, 4, "mode"),
        (path, 3, "streming"),
    ]
    code, out, _ = call("lint", path)
    assert f"{path}:3 [streming]" in out


def test_lint_of_what_is_not_there_could_not_run(tmp_path: Path) -> None:
    code, out, err = call("lint", str(tmp_path / "none.yaml"))
    assert (code, out) == (2, "")
    assert "no such policy file" in err
    assert call("lint", str(tmp_path))[0] == 2


def test_show_describes_the_resolved_policy() -> None:
    code, report = call_json("show", "support")
    support = load_policies("support").policies["support"]
    assert (code, report["id"], report["hash"]) == (0, "support", support.hash)
    assert report["agents"] == ["support*"]
    assert report["policy"]["categories"][0]["id"] == "violence"
    assert report["thresholds"]["violence"] == {"ask_above": 0.5, "act_above": 0.5}
    code, out, _ = call("show", "support")
    assert code == 0
    assert all(
        part in out for part in (support.hash, "financial_advice", "credit_card", "issue_refund", "verify-before")
    )


def test_show_gives_thresholds_at_the_policys_strictness(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("rude, ", "rude, ask_above: 0.3, ") + "strictness: 1\n")
    _, report = call_json("show", path)
    assert 0 < report["thresholds"]["rude"]["ask_above"] < 0.3
    assert report["thresholds"]["rude"]["act_above"] < 0.5
    assert "asks" in call("show", path)[1]


def test_show_chooses_by_agent(tmp_path: Path) -> None:
    write(tmp_path, GOOD + "agents: ['shop*']\n")
    write(tmp_path, GOOD.replace("id: shop", "id: bank") + "agents: [bank]\n", "bank.yaml")
    assert call_json("show", str(tmp_path), "--agent", "shop-eu")[1]["id"] == "shop"
    code, _, err = call("show", str(tmp_path), "--agent", "stock")
    assert code == 2
    assert "no policy matches the agent 'stock'" in err
    code, _, err = call("show", str(tmp_path))
    assert code == 2
    assert "--agent" in err


def test_show_keeps_terminal_codes_of_policies_to_itself(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + 'description: "[red]\\e[31mhello"\n')
    _, out, _ = call("show", path)
    assert "\x1b[31m" not in out
    assert "[red]" in out


def test_show_of_an_unknown_policy() -> None:
    code, _, err = call("show", "suport")
    assert code == 2
    assert "Did you mean 'support'?" in err


def test_schema_prints_the_committed_file() -> None:
    committed = (bundled_dir() / "policy.schema.json").read_text(encoding="utf-8")
    assert call("schema") == (0, committed, "")
