"""The command line: `guardmw`. Every command lives in `guardmw.commands` and imports what is heavy when it runs.

Exit codes: 0 fine, 1 something was found (or a gate failed), 2 the command could not run.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guardmw.commands._output import COULD_NOT_RUN, complain
from guardmw.commands.check import check
from guardmw.commands.demo import demo
from guardmw.commands.doctor import doctor
from guardmw.commands.eval import evaluate
from guardmw.commands.guard import guard_app
from guardmw.commands.policy import policy_app
from guardmw.commands.train import train_app
from guardmw.errors import GuardmwError


class Commands(TyperGroup):
    """Turns errors into one line on stderr and exit code 2; `-v` shows where they came from."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GuardmwError as error:
            _explain(str(error), error, verbose=ctx.params.get("verbose", False))
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise  # the command line's own way to end
            _explain(f"{type(error).__name__}: {error}", error, verbose=True)
        raise typer.Exit(COULD_NOT_RUN)


app = typer.Typer(
    name="guardmw",
    cls=Commands,
    help="Guards LLM agents: checks what goes in and what comes out against a policy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(check)
app.command()(demo)
app.command()(doctor)
app.command("eval")(evaluate)
app.add_typer(policy_app, name="policy")
app.add_typer(guard_app, name="guard")
app.add_typer(train_app, name="train")


def _explain(message: str, error: Exception, *, verbose: bool) -> None:
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    complain(message)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"guardmw {version('guardmw')}")
        raise typer.Exit


@app.callback()
def guardmw(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Guards LLM agents: checks what goes in and what comes out against a policy."""
