"""Every example runs as a user would run it, and shows what it should and nothing it shouldn't."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True)
class Expected:
    shown: tuple[str, ...]
    held_back: tuple[str, ...]


EXPECTED = {
    "quickstart.py": Expected(("Your parcel left our warehouse this morning.", "[CREDIT_CARD]"), ("4111",)),
    "hand_written_graph.py": Expected(("Index funds spread risk", "I can't help with that."), ("it will double",)),
    "approval.py": Expected(
        (
            "a person is asked: issue_refund({'order': 'A-1042', 'amount': 250})",
            "the argument 'amount' is above 100",
            "the person said approve: 250 euros of order A-1042 were paid back.",
            "the person said reject: [A person rejected the call of 'issue_refund'",
        ),
        (),
    ),
    "mcp_tools.py": Expected(
        (
            "Banks are open from nine to five. [removed: prompt_injection] They close on Sundays.",
            "it answers: Banks are closed on Sundays.",
            "the description of read_page: allow",
            "the description of add: block",
        ),
        ("mallory",),
    ),
    "two_agents.py": Expected(
        ("support: The maintainer is [EMAIL].", "coding: The maintainer is jane.doe@mail.example."),
        ("support: The maintainer is jane",),
    ),
}


def test_every_example_is_expected_to_show_something() -> None:
    assert {example.name for example in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_shows_what_it_should(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not [text for text in EXPECTED[name].shown if text not in done.stdout], done.stdout
    assert not [text for text in EXPECTED[name].held_back if text in done.stdout], done.stdout
