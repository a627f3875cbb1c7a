"""Starting `guardmw guard serve` for the live tests, and talking to what it started."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_guard.build import ROOT, VLLM_PYTHON

READY = VLLM_PYTHON.parent.parent / ".ready"
LOG = ROOT / "out" / "live" / "vllm.log"
START_S, STOP_S, ANSWER_S = 900, 60, 60

LIVE_VLLM = [pytest.mark.live("vllm"), pytest.mark.timeout(1800)]
"""The timeout covers what the first of these tests waits for: training the tiny guard, starting the server."""


@dataclass(frozen=True)
class LiveServer:
    """`spec` names the guard in a configuration (``vllm:http://...``), `url` is its API (ends in /v1)."""

    spec: str
    url: str
    model: str
    folder: Path

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, answer) for `body` sent to `path` below the API's url."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return answer.status, _answer(answer.read())
        except urllib.error.HTTPError as refusal:
            return refusal.code, _answer(refusal.read())

    def chat(self, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        """The answer to `messages`; the last one is continued when it is the assistant's."""
        continued = messages[-1]["role"] == "assistant"
        body = {"model": self.model, "messages": messages, "temperature": 0, **more}
        body |= {"continue_final_message": continued, "add_generation_prompt": not continued}
        status, answer = self.post("/chat/completions", body)
        assert status == 200, answer
        return answer


def _answer(body: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError:
        found = {"text": body.decode()}
    return found


@contextmanager
def tiny_guard_server(folder: Path, *arguments: str) -> Iterator[LiveServer]:
    """`guardmw guard serve` with the model in `folder`, ended when left."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("guardmw")), "guard", "serve", "--json", "--model", str(folder)]
    command += ["--port", str(free_port()), "--python", str(VLLM_PYTHON), "--max-model-len", "8192"]
    command += ["--log", str(LOG), "--timeout", str(START_S), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _started(process, folder)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _started(process: subprocess.Popen[str], folder: Path) -> LiveServer:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            told = json.loads("".join(lines))
            return LiveServer(told["guard"], told["url"], told["model"], folder)
    _, complaint = process.communicate(timeout=STOP_S)
    raise AssertionError(f"`guardmw guard serve` exited {process.returncode}:\n{complaint}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
