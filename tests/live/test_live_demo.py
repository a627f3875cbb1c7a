"""The demo as users run it beside a vLLM of their own: `guardmw guard serve`, then `guardmw demo --guard vllm`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from live.server import LiveServer, live_vllm

pytestmark = live_vllm("vllm-demo")


def test_every_scenario_ends_as_it_should(vllm_server: LiveServer) -> None:
    results = demo(vllm_server.spec)
    assert {name: result["action"] for name, result in results.items()} == {
        name: result["expected"] for name, result in results.items()
    }
    violation, clean = results["violation"], results["clean"]
    assert "Thank you for your order" in violation["shown"], "what was said before it was shown"
    assert "keylogger" not in violation["shown"]
    assert violation["withheld_chars"] > 0
    assert clean["withheld_chars"] == 0
    assert "system prompt begins" not in results["hostile-input"]["shown"]


def demo(guard: str) -> dict[str, Any]:
    """The scenarios' results by name, from a process of its own. Raises CalledProcessError when one went wrong."""
    command = [str(Path(sys.executable).with_name("guardmw")), "demo", "--json", "--guard", guard]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {result["scenario"]: result for result in json.loads(told)}
