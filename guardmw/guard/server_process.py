"""A server in a process of its own: started, awaited, watched, ended.

    with ServerProcess(command, env, health_url) as server:
        server.wait_ready(on_line=print)
        ...

Blocking, for command lines and test fixtures; no part of checking.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from guardmw.errors import GuardServerError
from guardmw.guard.wire import sendable

__all__ = ["ServerProcess"]

POLL_S = 0.25
ANSWER_S = 2.0
KEPT_LINES = 30
STOP_S = 15.0
# A proxy from the environment doesn't know the servers of this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerProcess:
    """Runs `command` with `env` until it is left. `health_url` answers 200 once the server is ready.

    Every line that the server writes goes to `log` (an open text file, or None) and to the `on_line` of the moment;
    `last_lines` keeps the newest ones. The server has a session of its own, so that a Ctrl-C at the terminal reaches it
    only through `stop`.
    """

    def __init__(
        self, command: Sequence[str], env: dict[str, str], health_url: str, *, log: IO[str] | None = None
    ) -> None:
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.on_line: Callable[[str], object] | None = None
        self._health_url, self._log, self._env = health_url, log, env
        self._process = subprocess.Popen(  # noqa: S603
            list(command), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", bufsize=1, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="server log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout_s: float) -> float:
        """Returns the seconds it took until the server answered.

        Raises GuardServerError, with the last lines of the log, when the server ended or was not ready in time.
        """
        began = time.monotonic()
        while not self._healthy():
            if self._process.poll() is not None:
                self._reader.join(ANSWER_S)
                raise self._failed(f"ended with code {exit_code(self._process.returncode)} before it was ready")
            if time.monotonic() - began > timeout_s:
                raise self._failed(f"was not ready within {timeout_s:g} s")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def ask(self, url: str, body: dict[str, Any], timeout_s: float) -> int:
        """Posts `body` as JSON and returns the status of the answer.

        Raises GuardServerError, with the last lines of the log, when there is no answer in time, and GuardConfigError
        when the key in the environment can't be sent.
        """
        data = json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **self._key()})  # noqa: S310
        try:
            with _DIRECT.open(request, timeout=timeout_s) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            return refusal.code
        except OSError as error:
            raise self._failed(f"gave no answer to a first check ({error})") from error

    def wait(self) -> int:
        """Waits for the server to end; returns its exit code, 128 + n when signal n ended it."""
        return exit_code(self._process.wait())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the server and whatever it started: by signal `number`, after STOP_S seconds by force.

        Returns its exit code as `wait` does.
        """
        if self._process.poll() is None:
            self._process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self.wait()
        self._reader.join()  # ends with the last process that could write
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _key(self) -> dict[str, str]:
        key = self._env.get("VLLM_API_KEY")
        return {"Authorization": sendable(f"Bearer {key}")} if key else {}

    def _healthy(self) -> bool:
        try:
            with _DIRECT.open(self._health_url, timeout=ANSWER_S) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _failed(self, what: str) -> GuardServerError:
        return GuardServerError(what, tuple(self.last_lines))

    def _read(self) -> None:
        output = self._process.stdout
        for line in output or ():
            self.last_lines.append(line.rstrip("\n"))
            if self._log is not None:
                self._log.write(line)
                self._log.flush()
            if self.on_line is not None:
                self.on_line(line.rstrip("\n"))


def exit_code(returncode: int) -> int:
    """As shells count: 128 + n when signal n ended the process."""
    return returncode if returncode >= 0 else 128 - returncode
