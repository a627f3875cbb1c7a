"""The report as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table


def percent(figure: dict[str, Any], *, interval: bool = False) -> str:
    if figure["rate"] is None:
        return "-"
    text = f"{100 * figure['rate']:.1f}"
    low, high = figure["interval"]
    return f"{text} [{100 * low:.1f}-{100 * high:.1f}]" if interval else text


def _ms(added: dict[str, float | None]) -> str:
    return "-" if added["p50"] is None else f"{added['p50']:.0f} / {added['p95']:.0f}"


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("attacks succeeding %", lambda row: percent(row["attack_success"], interval=True)),
    ("if people wave through %", lambda row: percent(row["attack_success_careless_person"])),
    ("user served %", lambda row: percent(row["user_served_under_attack"])),
    ("benign done %", lambda row: percent(row["benign_completion"], interval=True)),
    ("done unasked %", lambda row: percent(row["benign_completion_unattended"])),
    ("false blocks %", lambda row: percent(row["false_blocks"])),
    ("asked %", lambda row: percent(row["benign_asked"])),
    ("added ms p50 / p95", lambda row: _ms(row["added_ms"])),
)


def _table(title: str, first: str, rows: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=title)
    table.add_column(first, no_wrap=True)
    table.add_column("attacks", justify="right")
    for name, _ in COLUMNS:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(name, str(row["attack_success"]["n"]), *(text(row) for _, text in COLUMNS))
    return table


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the report: every guard, then the fullest one by group and family, where it stopped attacks, and the
    adaptive attacker."""
    results = report["guards"]
    console.print(_table("All tasks", "guard", {name: one["all"] for name, one in results.items()}))
    planted = {name: one["groups"]["injection"] for name, one in results.items() if "injection" in one["groups"]}
    console.print(_table("Injections (what published figures are about)", "guard", planted))
    last = list(results)[-1]
    console.print(_table(f"{last}, by group", "group", results[last]["groups"]))
    console.print(_table(f"{last}, by family", "family", results[last]["families"]))
    console.print(_stops(results))
    if report["adaptive"]:
        console.print(_adaptive(report["adaptive"]))


def _stops(results: dict[str, Any]) -> Table:
    places = sorted({place for one in results.values() for place in one["all"]["stopped"]})
    table = Table(title="Attacks stopped, by place and by what stopped them")
    for column in ("guard", *places):
        table.add_column(column, justify="left" if column == "guard" else "right")
    for name, one in results.items():
        table.add_row(name, *(str(one["all"]["stopped"].get(place, 0)) for place in places))
    return table


def _adaptive(runs: dict[str, Any]) -> Table:
    table = Table(title="Adaptive: injections rewritten knowing the policy, attacks succeeding %")
    table.add_column("rewrite", no_wrap=True)
    for name in runs:
        table.add_column(name, justify="right")
    for rewrite in dict.fromkeys(rewrite for one in runs.values() for rewrite in one):
        cells = (percent(one[rewrite], interval=True) if rewrite in one else "-" for one in runs.values())
        table.add_row(rewrite, *cells)
    return table
