"""Starting `guardmw guard serve` for the live tests, and talking to what it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_guard.build import ROOT, VLLM_PYTHON

READY = VLLM_PYTHON.parent.parent / ".ready"
LOGS = ROOT / "out" / "live"
START_S, STOP_S, ANSWER_S = 900, 60, 60

TIMEOUT_S = 1800
"""Covers what the first of these tests waits for: training the tiny guard, starting the server."""


def live_vllm(part: str = "vllm") -> list[pytest.MarkDecorator]:
    """The marks of live tests; `part` is their name in `.ci/run`, which begins with ``vllm``."""
    return [pytest.mark.live(part), pytest.mark.timeout(TIMEOUT_S)]


@dataclass(frozen=True)
class LiveServer:
    """`spec` names the guard in a configuration (``vllm:http://...``), `url` is its API (ends in /v1), `pid` that of
    `guardmw guard serve`."""

    spec: str
    url: str
    model: str
    folder: Path
    pid: int

    def kill(self) -> None:
        """End vLLM at once, as a crash or the kernel would; `guardmw guard serve` exits after it."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for child in map(int, children):
            os.killpg(child, signal.SIGKILL)

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
def serving(*commands: tuple[Path, *tuple[str, ...]]) -> Iterator[list[LiveServer]]:
    """`guardmw guard serve` for each of `commands` (model folder, options), started side by side, ended when left."""
    with ExitStack() as stack:
        processes = [(stack.enter_context(_process(*command)), command[0]) for command in commands]
        yield [_started(process, folder) for process, folder in processes]


@contextmanager
def _process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    LOGS.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    command = [str(Path(sys.executable).with_name("guardmw")), "guard", "serve", "--json", "--model", str(folder)]
    command += ["--port", port, "--python", str(VLLM_PYTHON), "--timeout", str(START_S)]
    command += ["--log", str(LOGS / f"{folder.name}-{port}.log"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
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
            return LiveServer(told["guard"], told["url"], told["model"], folder, process.pid)
    _, complaint = process.communicate(timeout=STOP_S)
    raise AssertionError(f"`guardmw guard serve` exited {process.returncode}:\n{complaint}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
