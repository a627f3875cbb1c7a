"""How the demo looks: the conversation as it unfolds, the verdicts, a summary, the spans."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from guardmw.commands._output import printable
from guardmw.commands.check import COLOURS
from guardmw.commands.demo.scenarios import Scenario
from guardmw.commands.demo.watch import Judged, Said, ToolUse, Watch

MAX_VERDICTS = 14
"""Rows of verdicts on screen: the first ones and the last ones of a long run."""


def conversation(title: str, watch: Watch) -> Panel:
    """The run so far: shown text plain, held text dim, withheld text struck out, replacements in yellow."""
    parts: list[RenderableType] = [_user(watch)]
    for step in watch.steps:
        parts += [_tool(step)] if isinstance(step, ToolUse) else _said(step, watch)
    parts += ["", verdicts(watch.judged)]
    colour = COLOURS[watch.action]
    return Panel(Group(*parts), title=f"[bold]{title}[/]", subtitle=_timing(watch), border_style=colour)


def _user(watch: Watch) -> Text:
    return Text.assemble(("user   ", "bold cyan"), printable(watch.user))


def _tool(use: ToolUse) -> Text:
    call = Text.assemble(("tool   ", "bold blue"), printable(f"{use.name}({use.arguments})"))
    if use.asked:
        call.append(f" · {printable(use.asked)}", style="magenta")
    return call.append(f" → {printable(use.result)}", style="red" if use.refused else "dim") if use.result else call


def _said(said: Said, watch: Watch) -> list[RenderableType]:
    if not (said.text or said.shown):
        return []
    line = Text.assemble(("agent  ", "bold green"), printable(said.shown))
    line.highlight_words([printable(label) for label in watch.labels], style="bold black on yellow")
    rows: list[RenderableType] = [line]
    if said.unseen and said.withheld:
        rows.append(Text.assemble(("never shown  ", "bold red"), (printable(said.unseen), "red strike")))
    elif said.unseen and watch.ended_s is None:
        rows.append(Text.assemble(("held  ", "dim"), (printable(said.unseen), "dim italic")))
    return rows


def verdicts(judged: list[Judged]) -> RenderableType:
    table = Table("at", "surface", "characters", "action", "guard", "why", box=None, header_style="dim", pad_edge=False)
    shown = judged if len(judged) <= MAX_VERDICTS else [*judged[: MAX_VERDICTS // 2], *judged[-MAX_VERDICTS // 2 :]]
    for place, item in enumerate(shown):
        if len(shown) < len(judged) and place == MAX_VERDICTS // 2:
            table.add_row("…", f"{len(judged) - len(shown)} more")
        table.add_row(*_verdict(item))
    return table


def _verdict(judged: Judged) -> Iterable[RenderableType]:
    decision, check = judged.decision, judged.decision.check
    verdict = decision.verdict
    took = f"{verdict.guard} {1e3 * verdict.duration_s:.1f} ms" if verdict.guard else "not asked"
    return (
        Text(f"{judged.at_s:5.2f} s", "cyan"),
        check.surface,
        f"{check.offset_chars}-{len(check.content)}",
        Text(decision.action, COLOURS[decision.action]),
        Text("cached" if verdict.cached else took, "dim"),
        Text(printable(decision.why), "" if decision.action != "allow" else "dim", overflow="ellipsis"),
    )


def _timing(watch: Watch) -> str:
    if watch.ended_s is None:
        return "…"
    first = "nothing shown" if watch.first_shown_s is None else f"first words after {1e3 * watch.first_shown_s:.0f} ms"
    return f"{first}, {watch.ended_s:.1f} s in all, {len(watch.judged)} checks"


def summary(runs: Sequence[tuple[Scenario, Watch]]) -> Table:
    """One line per scenario."""
    table = Table(title="withheld: characters that the model said and nobody saw", title_style="dim")
    table.add_column("scenario", no_wrap=True)
    for column in ("expected", "action", "withheld", "redacted", "checks", "guard p50"):
        table.add_column(column)
    for scenario, watch in runs:
        mark, colour = ("✓", "green") if watch.action == scenario.expected else ("✗", "bold red")
        table.add_row(
            scenario.name,
            scenario.expected,
            Text(f"{watch.action} {mark}", colour),
            str(watch.withheld_chars),
            str(len(watch.labels)),
            str(len(watch.judged)),
            f"{statistics.median(watch.guard_ms):.1f} ms" if watch.guard_ms else "-",
        )
    return table
