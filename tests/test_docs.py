"""README and docs keep their word: code runs, policies load, commands print what is shown, links lead somewhere.

Blocks of one file share a folder and a namespace, top to bottom. A YAML block is a policy; it is written into that
folder as `<its id>.yaml`, so that the blocks below it can load it. In a console block, each line after a command must
occur in what it prints; a line holding `...` stands for anything.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from guardmw import load_policies

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT, ROOT / "docs", ROOT / "policies", ROOT / "guardmw" / "weights")
PAGES = [page for folder in FOLDERS for page in sorted(folder.glob("*.md"))]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"(tests/\w+\.py)::(\w+)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
POLICY_ID = re.compile(r"^id: ([\w-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in BLOCK.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 2)


def has_code(page: Path) -> bool:
    return any(block.language in ("python", "yaml", "console") for block in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=lambda page: page.name)
def test_what_a_page_shows_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        match block.language:
            case "python":
                run_python(block, page, namespace)
            case "yaml":
                load_policy(block, tmp_path)
            case "console":
                run_commands(block, tmp_path)


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    padded = "\n" * (block.line - 1) + block.code  # so that errors name the line of the page
    exec(compile(padded, str(page), "exec"), namespace)


def load_policy(block: Block, folder: Path) -> None:
    policy_id = POLICY_ID.search(block.code)
    assert policy_id is not None, f"line {block.line}: a policy has an id"
    file = folder / f"{policy_id[1]}.yaml"
    file.write_text(block.code)
    load_policies(file)


def run_commands(block: Block, folder: Path) -> None:
    for shown in block.code.split("$ ")[1:]:
        command, *lines = shown.splitlines()
        printed = run_command(shlex.split(command, comments=True), folder)
        missing = [line for line in lines if "..." not in line and line.strip() not in printed]
        assert not missing, f"line {block.line}: `{command}` printed\n{printed}\nand not\n{missing}"


def run_command(words: list[str], folder: Path) -> str:
    program = Path(sys.executable).parent / words[0]
    assert program.exists(), f"{words[0]} is no command of this environment"
    surroundings = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        [program, *words[1:]], cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tests_a_page_names_exist(page: Path) -> None:
    named = TEST.findall(page.read_text())
    assert not [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    section = (ROOT / "docs" / "architecture.md").read_text().partition("## Dependencies")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == needed
