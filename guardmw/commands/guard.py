"""`guardmw guard`: serve a guard model."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from guardmw.commands._output import COULD_NOT_RUN, complain, printable
from guardmw.errors import GuardConfigError, GuardServerError

if TYPE_CHECKING:
    from guardmw.guard.serve import Build, ServeOptions
    from guardmw.guard.server_process import ServerProcess

guard_app = typer.Typer(name="guard", help="Serve a guard model, or write one for serving.", no_args_is_help=True)

ENDING = (signal.SIGINT, signal.SIGTERM)
OK = 200
LOOPBACK = ("127.", "localhost", "::1")


@guard_app.command()
def serve(
    model: Annotated[str, typer.Option(help="A model's folder, or its id on the hub (owner/name).")],
    extra: Annotated[list[str] | None, typer.Argument(help="After `--`: options for vLLM, as it takes them.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    python: Annotated[str, typer.Option(help="The Python of the environment in which vLLM is installed.")] = "",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", "-p", help="Policies it will judge by, for their length."),
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=256, help="Tokens of prompt and answer; else it follows from the policies.")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="name=folder of a LoRA adapter to load at the start.")] = None,
    no_lora: Annotated[bool, typer.Option("--no-lora", help="Serve without LoRA adapters (a little faster).")] = False,
    log: Annotated[Path | None, typer.Option(help="File for vLLM's log; else it goes to standard error.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for readiness, a download included.")] = 1800,
    as_json: Annotated[bool, typer.Option("--json", help="Print the configuration as JSON.")] = False,
) -> None:
    """Start vLLM for guarding, wait until it is ready, and print the line that configures a client.

    Ctrl-C and SIGTERM end it. Exits with vLLM's code, or 2 when it could not be started.
    """
    from guardmw.guard.serve import ServeOptions

    options = ServeOptions(
        model, host, port, python or sys.executable, tuple(policy or ()), max_model_len,
        not no_lora, tuple(lora or ()), tuple(extra or ()),
    )  # fmt: skip
    raise typer.Exit(_serve(options, log, timeout, as_json))


@guard_app.command()
def export(
    out: Annotated[Path, typer.Option(help="A new folder for the model.")],
    weights: Annotated[
        Path | None, typer.Option(help="Folder of weights by `guardmw train embedded`; else the bundled ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the embedded guard's encoder as a model folder, which `guardmw guard serve --model` serves on vLLM.

    The client is then the guard `embedded:URL`: it sends token ids and scores what comes back with its own head.
    """
    from guardmw.commands._output import print_json
    from guardmw.guard.embedded import bundled_weights
    from guardmw.guard.export import export_encoder

    version = export_encoder(weights or bundled_weights(), out)
    if as_json:
        print_json({"model": str(out), "version": version})
    else:
        sys.stdout.write(f"wrote {printable(str(out))}: the encoder of embedded guard {version}\n")


def _serve(options: ServeOptions, log: Path | None, timeout_s: float, as_json: bool) -> int:
    from guardmw.guard.serve import find_build, preflight

    build = find_build(options.python)
    preflight(options)
    _warn(options, build)
    with _started(options, build, log) as server:
        try:
            with _signals_raise():
                _tell(options, build, _await(server, options, timeout_s), as_json)
                server.on_line = None if log else _echo
                return server.wait()
        except _Signalled as signalled:
            return server.stop(signalled.number)
        except GuardServerError as error:
            sys.stderr.write("".join(f"  {printable(line)}\n" for line in error.last_lines))
            complain(str(error))
            return COULD_NOT_RUN


@contextmanager
def _started(options: ServeOptions, build: Build, log: Path | None) -> Iterator[ServerProcess]:
    from guardmw.guard.serve import command_line, environment
    from guardmw.guard.server_process import ServerProcess

    command, env = command_line(options, build), environment(options, build)
    with ExitStack() as stack:
        file = stack.enter_context(_log_file(log)) if log else None
        yield stack.enter_context(ServerProcess(command, env, options.health_url, log=file))


def _log_file(path: Path) -> IO[str]:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise GuardConfigError(
            f"--log {path} can't be written: {error.strerror}; name a file in a folder of yours"
        ) from error


class _Signalled(BaseException):
    """Signal `number` told us to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """The first signal of ENDING raises _Signalled; later ones are ignored, so that the server is ended in peace."""

    def raise_once(number: int, _frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise _Signalled(number)

    earlier = {number: signal.signal(number, raise_once) for number in ENDING}
    try:
        yield
    except _Signalled:
        raise
    else:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _await(server: ServerProcess, options: ServeOptions, timeout_s: float) -> float:
    """Seconds until the server was ready to judge at full speed."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from guardmw.guard.served import first_check

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting vLLM")
        server.on_line = lambda line: progress.update(task, description=_shortened(line, progress.console.width - 12))
        began = time.monotonic()
        server.wait_ready(timeout_s)
        progress.update(task, description="a first check")
        path, body = first_check(options.kind, options.model_name)
        status = server.ask(f"{options.root}{path}", body, timeout_s)
    if status != OK:
        complain(
            f"the model refused a first check (HTTP {status}) as a {options.kind} model gets it; when it is a "
            "classifier, add `-- --runner pooling`, else name its family to the client"
        )
    return time.monotonic() - began


def _shortened(line: str, width: int) -> str:
    text = printable(line).replace("\t", " ")
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _echo(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")


def _tell(options: ServeOptions, build: Build, took_s: float, as_json: bool) -> None:
    from guardmw.commands._output import print_json
    from guardmw.guard.serve import client_spec

    shown: dict[str, Any] = {
        "guard": client_spec(options), "url": options.url, "model": options.model_name,
        "vllm": build.version, "device": build.device, "ready_after_s": round(took_s, 1),
    }  # fmt: skip
    if as_json:
        print_json(shown)
    else:
        sys.stdout.write(f"guard: {printable(shown['guard'])}\n")
    sys.stdout.flush()


def _warn(options: ServeOptions, build: Build) -> None:
    from guardmw.guard.serve import gpu_present

    if not options.host.startswith(LOOPBACK) and options.lora:
        complain(f"whoever reaches {options.host}:{options.port} can load adapters into this guard; "
                 "keep it in a network of its own, or set VLLM_API_KEY")  # fmt: skip
    if build.device == "cpu" and gpu_present():
        complain("this machine has a GPU, and the vLLM installed is the CPU build: install `vllm` to use it")
