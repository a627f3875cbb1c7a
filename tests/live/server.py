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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_guard.build import ROOT, VLLM_PYTHON

READY = VLLM_PYTHON.parent.parent / ".ready"
LOGS = ROOT / "out" / "live"
START_S, STOP_S, ANSWER_S = 900, 60, 60
CACHE_GIB = "1"
"""Four servers share the machine, and their models are small."""

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
def starting(*commands: tuple[Path, *tuple[str, ...]]) -> Iterator[list[Starting]]:
    """`guardmw guard serve` for each of `commands` (model folder, options), all at once; ended when left."""
    servers: list[Starting] = []
    try:
        for folder, *options in commands:
            servers.append(Starting(folder, _process(folder, *options)))
        yield servers
    finally:
        for each in servers:
            each.process.send_signal(signal.SIGTERM)
        for each in servers:
            each.end()


@dataclass(frozen=True)
class Starting:
    """A server that may not be ready yet."""

    folder: Path
    process: subprocess.Popen[str]

    def ready(self) -> LiveServer:
        """Waits for it; may be called once."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line == "}\n":
                told = json.loads("".join(lines))
                return LiveServer(told["guard"], told["url"], told["model"], self.folder, self.process.pid)
        _, complaint = self.process.communicate(timeout=STOP_S)
        raise AssertionError(f"`guardmw guard serve` exited {self.process.returncode}:\n{complaint}")

    def end(self) -> None:
        with self.process:
            try:
                self.process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()


def _process(folder: Path, *options: str) -> subprocess.Popen[str]:
    LOGS.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    command = [str(Path(sys.executable).with_name("guardmw")), "guard", "serve", "--json", "--model", str(folder)]
    command += ["--port", port, "--python", str(VLLM_PYTHON), "--timeout", str(START_S)]
    command += ["--log", str(LOGS / f"{folder.name}-{port}.log"), *options]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": CACHE_GIB}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
