"""The frame of the command line: help, version, exit codes, errors."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import guardmw.cli
from guardmw.commands._output import printable

RUNNER = CliRunner()

HEAVY = {
    "asyncio", "guardmw.checker", "guardmw.train", "httpx", "langchain_core", "langgraph", "numpy", "onnxruntime",
    "opentelemetry", "pydantic", "torch", "yaml",
}  # fmt: skip


def plain(text: str) -> str:
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", text).split())


def test_help_lists_the_commands_and_each_explains_itself() -> None:
    shown = RUNNER.invoke(guardmw.cli.app, ["--help"])
    assert shown.exit_code == 0
    commands = re.findall(r"^│ (\w+) {2,}", shown.output, re.MULTILINE)
    assert {"check", "doctor", "policy"} <= set(commands)
    for command in commands:
        explained = RUNNER.invoke(guardmw.cli.app, [command, "--help"])
        assert explained.exit_code == 0
        assert f"Usage: guardmw {command}" in plain(explained.output)


def test_the_version() -> None:
    from importlib.metadata import version

    shown = RUNNER.invoke(guardmw.cli.app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"guardmw {version('guardmw')}\n")


def test_an_unknown_command_could_not_run() -> None:
    assert RUNNER.invoke(guardmw.cli.app, ["chekc"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["check", "x", "--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["check", "x", "--guard", "vllm:localhost"], "no URL of a server"),
        (["check", "x", "--guard", "magic"], "Guards known: embedded, embedded:URL, detectors"),
    ],
)
def test_an_error_is_one_line_on_stderr(arguments: list[str], complaint: str) -> None:
    result = RUNNER.invoke(guardmw.cli.app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("guardmw: ")
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr


def test_verbose_shows_where_an_error_came_from() -> None:
    result = RUNNER.invoke(guardmw.cli.app, ["-v", "check", "x", "--guard", "magic"])
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert "guardmw.errors.GuardConfigError" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from guardmw.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    print('\\n' + ','.join(sys.modules))"
    )
    imported = set(subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()[-1].split(","))
    assert "guardmw.cli" in imported
    assert not HEAVY & imported


def test_the_command_is_installed() -> None:
    import importlib.metadata

    (command,) = importlib.metadata.entry_points(group="console_scripts", name="guardmw")
    assert command.load() is guardmw.cli.app


def test_what_is_printed_can_not_steer_the_terminal() -> None:
    hostile = "\x1b[2Jred\x00 \u202eevil\ud800 tab\there\nline é 日本"
    shown = printable(hostile)
    assert len(shown) == len(hostile)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.endswith(" tab\there\nline é 日本")
    shown.encode()
