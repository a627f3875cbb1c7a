"""`guardmw eval`, from arguments to exit codes, the JSON file and the page."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from evaluation_rows import TAXONOMIES, raw, unsafe, write
from guardmw.cli import app

MAIL = "write to someone@example.com"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def taxonomies(tmp_path: Path) -> str:
    path = tmp_path / "taxonomies.json"
    path.write_text(json.dumps({name: taxonomy.model_dump() for name, taxonomy in TAXONOMIES.items()}))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        *(unsafe(f"{MAIL} {place}", id=f"u{place}", task="response", source="leaks") for place in range(6)),
        *(unsafe(f"nothing to see {place}", id=f"q{place}", source="leaks") for place in range(2)),
        *(raw(id=f"s{place}", content=f"Bake {place} cakes", task="response", source=HOSTILE) for place in range(7)),
        raw(id="b1", content="Hello", policy="benign", source="plain"),
    ]
    return write(tmp_path / "rows.jsonl", rows)


def run(*arguments: str | Path) -> Result:
    words = ["eval", "--guard", "detectors", "--bootstrap", "50", *map(str, arguments)]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def test_an_evaluation_prints_figures_and_writes_all_of_them(data: Path, taxonomies: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    result = run(data, "--taxonomies", taxonomies, "--json", out)
    assert result.exit_code == 0, result.output
    assert "detectors 1 on 16 rows" in result.stdout
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["guard"] == {"name": "detectors", "version": "1"}
    assert found["options"]["seed"] == 0
    assert len(found["data"]["files"][0]["sha256"]) == 64
    figures = found["overall"]["figures"]
    assert figures["recall"]["value"] == 0.75
    assert figures["fpr"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert figures["recall"]["low"] < 0.75 < figures["recall"]["high"]
    stream = found["streaming"]["overall"]
    assert (stream["rows"], stream["unsafe"], stream["figures"]["missed"]["value"]) == (13, 6, 0.0)
    assert "someone" not in out.read_text()


class Page(HTMLParser):
    """Collects the tags of a page and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_page_stands_alone_and_shows_texts_on_request_only(data: Path, taxonomies: str, tmp_path: Path) -> None:
    pages = []
    for extra in ([], ["--show-texts"]):
        path = tmp_path / "report.html"
        assert run(data, "--taxonomies", taxonomies, "--report", path, *extra).exit_code == 0
        text = path.read_text(encoding="utf-8")
        parsed = Page(text)
        assert parsed.open == []
        assert parsed.loaded == []
        assert "script" not in parsed.tags
        assert parsed.tags.count("svg") >= 4
        assert "&lt;script&gt;" in text
        pages.append(text)
    assert "nothing to see" not in pages[0]
    assert "nothing to see" in pages[1]


def test_what_is_left_out_is_said_and_refused_above_a_share(data: Path, taxonomies: str, tmp_path: Path) -> None:
    spoiled = write(tmp_path / "spoiled.jsonl", [raw(), raw(label="dunno")])
    refused = run(data, spoiled, "--taxonomies", taxonomies)
    assert refused.exit_code == 2
    assert f"{spoiled}:2: not a row: label:" in refused.stderr
    told = run(data, spoiled, "--taxonomies", taxonomies, "--max-bad-share", "0.1")
    assert told.exit_code == 0
    assert f"{spoiled}:2: not a row: label:" in told.stderr
    assert "1 rows or files were left out (5.56%)" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.jsonl", "--policy", "base"], "there is no such file or folder"),
        (["{data}"], "nothing says what is unsafe"),
        (["{data}", "--taxonomies", "missing.json"], "missing.json: can't be read"),
        (["{data}", "--policy", "nobody"], "nobody"),
        (["{data}", "--policy", "base", "--format", "csv"], "there is no format 'csv'"),
        (["{data}", "--policy", "base", "--guard", "owl"], "there is no guard called 'owl'"),
        (["{data}", "--policy", "base", "--report", "no/such/folder.html"], "name a file in a folder that exists"),
        (["missing.jsonl", "--policy", "base", "--json", "/proc/x.json"], "/proc/x.json can't be written"),
        (["missing.jsonl", "--policy", "base", "--report", "/proc/version"], "/proc/version can't be written"),
    ],
)
def test_what_can_not_run_says_why(data: Path, arguments: list[str], says: str) -> None:
    result = run(*(word.format(data=data) for word in arguments))
    assert result.exit_code == 2
    assert says in result.stderr


def test_trying_to_write_leaves_nothing_behind(tmp_path: Path) -> None:
    new, link, old = (tmp_path / name for name in ("new.json", "link.json", "old.html"))
    link.symlink_to(tmp_path / "target.json")
    old.write_text("before")
    for out in (new, link):
        result = run("missing.jsonl", "--policy", "base", "--json", out, "--report", old)
        assert "there is no such file or folder" in result.stderr
    assert old.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "old.html"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_figures_are_shown_even_if_they_can_not_be_written(data: Path) -> None:
    result = run(data, "--policy", "base", "--json", "/dev/full")
    assert result.exit_code == 2
    assert "/dev/full can't be written" in result.stderr
    assert "detectors 1 on 16 rows" in result.stdout


MARKUP = ["set[/x]", "[/x]", "[bold]b", "a\\", "\\[/x]", "[/]", ":bug:", "[link=http://x]y"]


def test_names_from_the_data_are_no_markup(tmp_path: Path) -> None:
    rows = [raw(id=name, source=name, task="response", policy="benign") for name in MARKUP]
    spoiled = [raw(policy=name) for name in MARKUP]
    path = write(tmp_path / "rows.jsonl", [*rows, *spoiled])
    taxonomies = tmp_path / "taxonomies.json"
    taxonomies.write_text(json.dumps({"harm": TAXONOMIES["harm"].model_dump()}))
    result = run(path, "--taxonomies", taxonomies, "--max-bad-share", "1")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines()]
    for name in MARKUP:
        assert sum(line.startswith(f"{name} ") for line in lines) == 2, name
        assert f"1 x unknown taxonomy {name!r}" in lines


def test_taxonomies_from_a_pipe_are_refused(data: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "taxonomies")
    result = run(data, "--taxonomies", tmp_path / "taxonomies")
    assert result.exit_code == 2
    assert "taxonomies: a pipe or a device" in result.stderr


def test_files_set_aside_are_said(data: Path, taxonomies: str) -> None:
    result = run(data.parent, "--taxonomies", taxonomies)
    assert result.exit_code == 0, result.output
    assert "1 set aside by the format's own rules: a file in a folder whose name doesn't end in .jsonl" in result.stderr


def test_a_given_policy_needs_no_taxonomies(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert run(data, "--policy", "support", "--json", out, "--no-streaming").exit_code == 0
    found = json.loads(out.read_text())
    assert found["policy"]["id"] == "support"
    assert "streaming" not in found
    assert "category_accuracy" not in found["overall"]["figures"]


def test_equal_seeds_give_equal_files(data: Path, taxonomies: str, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        run(data, "--taxonomies", taxonomies, "--limit", "8", "--seed", "3", "--json", tmp_path / name)
        found.append(json.loads((tmp_path / name).read_text()))
    for each in found:
        assert each["data"]["judged"] == 8
        each.pop("latency_ms")
    assert found[0] == found[1]


def test_a_narrow_terminal_shows_whole_names(data: Path, taxonomies: str) -> None:
    words = ["eval", str(data), "--taxonomies", taxonomies, "--guard", "detectors", "--bootstrap", "0"]
    result = CliRunner().invoke(app, words, env={**os.environ, "COLUMNS": "80"})
    assert "mean of sources (macro)" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
