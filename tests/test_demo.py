"""The demo as a user runs it: its scenarios with the real guard, rows of a file, and what goes wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from guardmw.cli import app
from guardmw.commands.demo.scenarios import SCENARIOS


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["demo", *arguments])


def results(*arguments: str) -> Any:
    return json.loads(demo(*arguments, "--json").stdout)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_meets_the_action_it_should(name: str) -> None:
    run = demo("--scenario", name, "--pace-ms", "2")
    assert run.exit_code == 0, run.stdout
    for part in (SCENARIOS[name].title[:40], "guard_stream" if name != "hostile-input" else "apply_guardrail"):
        assert part in run.stdout


def test_what_the_user_reads() -> None:
    shown = {result["scenario"]: result for result in results("--pace-ms", "2")}
    assert list(shown) == list(SCENARIOS)
    assert shown["clean"]["shown"] == SCENARIOS["clean"].turns[1]
    assert "spyware" not in shown["violation"]["shown"]
    assert shown["violation"]["withheld_chars"] > 50
    assert "[EMAIL]" in shown["personal-data"]["shown"]
    assert "[CREDIT_CARD]" in shown["personal-data"]["shown"]
    assert "1111" not in shown["personal-data"]["shown"]
    assert "system prompt" not in shown["hostile-input"]["shown"]
    assert "connect_error" in shown["guard-dies"]["why"]
    assert "by the way you paid" not in shown["guard-dies"]["shown"]


def test_the_calls_of_tools_and_what_became_of_them() -> None:
    (result,) = results("--scenario", "tools", "--pace-ms", "0")
    read, post, verify, mail, refund, another = result["tools"]
    assert "Jane Doe" in read["result"]
    assert (post["call"], post["refused"]) == ("http_post()", True)
    assert "may not be called after 'read_customer*'" in post["result"]
    assert not verify["refused"]
    assert "[CREDIT_CARD]" in mail["call"]
    assert "1111" not in json.dumps(result["tools"])
    assert (refund["asked"], refund["refused"]) == ("a person was asked: approve", False)
    assert "were paid back" in refund["result"]
    assert another["asked"].startswith("a person was asked: reject")
    assert another["refused"]


def test_a_scenario_that_goes_wrong_exits_with_1() -> None:
    assert demo("--scenario", "violation", "--guard", "detectors", "--pace-ms", "0").exit_code == 1


def test_rows_of_a_file_are_streamed_and_counted(tmp_path: Path) -> None:
    rows = [
        {"content": "The parcel will be with you on Thursday.", "label": "safe", "task": "response"},
        {"content": "Her card is 4111 1111 1111 1111, she said.", "label": "unsafe", "task": "response"},
        {"content": "Where is my parcel?", "label": "safe", "task": "prompt"},
        {"text": "Have a nice day."},
        {"content": "[]", "task": "trajectory"},
    ]
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    report = results("--input", str(file), "--guard", "detectors")
    assert report["outcomes"] == [
        {"label": "safe", "outcome": "passed", "rows": 2},
        {"label": "unlabelled", "outcome": "passed", "rows": 1},
        {"label": "unsafe", "outcome": "redacted", "rows": 1},
    ]
    assert report["skipped"] == {"trajectory": 1}
    shown = demo("--input", str(file), "--guard", "detectors", "--limit", "2").stdout
    assert "What came of the rows" in shown


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"content": "fine"}\n{"content": ', ":2: not JSON"),
        (b'{"label": "safe"}\n', ":1: no text"),
        (b"[1]\n", ":1: no text"),
        (b"\xff\xfe\n", "can't be read"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    run = demo("--input", str(file), "--guard", "detectors")
    assert run.exit_code == 2
    assert complaint in run.stderr


def test_a_truncated_archive_and_a_missing_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"content": "fine"}\n' * 1000)[:60])
    assert demo("--input", str(file)).exit_code == 2
    assert demo("--input", str(tmp_path / "none.jsonl")).exit_code == 2


def test_unknown_names_say_what_there_is() -> None:
    run = demo("--scenario", "nothing")
    assert run.exit_code == 2
    assert "clean" in run.stderr
    run = demo("--model", "nobody:nothing")
    assert run.exit_code == 2
    assert "nobody:nothing" in run.stderr
