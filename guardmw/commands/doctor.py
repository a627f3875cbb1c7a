"""`guardmw doctor`: does everything work on this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from guardmw.commands._output import FINE, FOUND, GUARDS, print_json, printable

if TYPE_CHECKING:
    from guardmw.commands._examinations import Health, Result

MARKS: dict[Health, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "dim"),
}


def doctor(
    policy: Annotated[
        str, typer.Option("--policy", "-p", help="A policy file or folder, or the name of a bundled policy.")
    ] = "base",
    guard: Annotated[str, typer.Option(help=GUARDS)] = "embedded",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Examine this installation: packages, weights, policies, a guarded agent from end to end, telemetry.

    Exits 0 when all is well, 1 when an examination failed, 2 when the examination could not run.
    """
    from guardmw.commands._examinations import Patient, examine

    results = examine(Patient(policy, guard))
    failed = sum(result.health == "failed" for result in results)
    if as_json:
        print_json({"healthy": not failed, "results": [_as_dict(result) for result in results]})
    else:
        _show(results, failed)
    raise typer.Exit(FOUND if failed else FINE)


def _as_dict(result: Result) -> dict[str, str]:
    return {"subject": result.subject, "health": result.health, "found": result.found}


def _show(results: list[Result], failed: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for result in results:
        mark, style = MARKS[result.health]
        table.add_row(Text(mark, style), Text(result.subject, "bold"), Text(printable(result.found)))
    console = Console()
    console.print(table)
    console.print(Text(f"\n{failed} failed" if failed else "\nall is well", "bold red" if failed else "bold green"))
