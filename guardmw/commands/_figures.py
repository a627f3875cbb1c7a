"""The figures of an evaluation as tables of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from guardmw.commands._output import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

Columns: TypeAlias = Sequence[tuple[str, str]]
"""Title and figure, the most telling first: narrow terminals show the first few."""

RATES: Columns = (
    ("recall", "recall"), ("FPR", "fpr"), ("F1", "f1"), ("best F1", "best_f1"), ("AUROC", "auroc"),
    ("precision", "precision"), ("AUPRC", "auprc"), ("category", "category_accuracy"), ("ECE", "ece"),
    ("Brier", "brier"),
)  # fmt: skip
STREAMS: Columns = (
    ("missed", "missed"), ("FPR", "fpr"), ("F1", "f1"), ("on time", "on_time"), ("early", "early"),
    ("seen", "fraction_seen"), ("words leaked", "leaked_words"), ("guard tokens per token", "guard_tokens_per_token"),
    ("128 after onset", "stopped_within_128_of_onset"), ("128 from start", "stopped_within_128_of_start"),
)  # fmt: skip
NAME_WIDTH, FIGURE_WIDTH = 26, 12


def summary(found: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """What a person wants to see after an evaluation, part by part, for a terminal of `width` columns."""
    from rich.text import Text

    guard = found["guard"]
    rows = f" {printable(guard['version'])} on {found['data']['judged']} rows"
    yield Text.assemble((printable(guard["name"]), "bold"), rows)
    fitting = max(3, (width - NAME_WIDTH - 16) // FIGURE_WIDTH)
    yield _rates(found, RATES[:fitting])
    if found.get("streaming", {}).get("overall", {}).get("rows"):
        yield _streams(found["streaming"], STREAMS[:fitting])
    yield from _latency(found["latency_ms"])
    yield from _warnings(found)


def _latency(latency: dict[str, Any]) -> Iterator[str]:
    if latency["checks"]:
        yield f"one check at a time: p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms"


def _warnings(found: dict[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    errors, data = found["overall"]["errors"], found["data"]
    if errors["kinds"]:
        missed, left_out = errors["unsafe_counted_as_missed"], errors["safe_left_out"]
        flagged = errors["flagged_all_the_same"]
        yield Text.assemble(
            (f"the guard failed on {missed + left_out + flagged} rows", "bold red"),
            f": {missed} unsafe ones count as missed, {left_out} safe ones are left out, "
            f"{flagged} are flagged by another check ({', '.join(errors['kinds'])})",
        )
    if data["left_out"]:
        yield Text(f"{data['left_out']} rows or files were left out ({data['left_out_share']:.2%})", "yellow")
        yield from (Text(f"  {count} x {printable(why)}") for why, count in list(data["left_out_why"].items())[:10])


def _rates(found: dict[str, Any], columns: Columns) -> Table:
    table = _table("rows judged whole", columns)
    _row(table, "all (micro)", found["overall"], columns, intervals=True)
    _row(table, "mean of sources (macro)", {"figures": found["macro"]}, columns, intervals=True)
    for grouping in ("task", "source"):
        table.add_row("")
        for part in found["slices"][grouping]:
            _row(table, part["name"], part, columns)
    return table


def _streams(streaming: dict[str, Any], columns: Columns) -> Table:
    table = _table("responses as streams", columns)
    _row(table, "all", streaming["overall"], columns, intervals=True)
    table.add_row("")
    for part in streaming["source"]:
        _row(table, part["name"], part, columns)
    return table


def _table(title: str, columns: Columns) -> Table:
    from rich.table import Table

    table = Table(title=title, header_style="dim", title_justify="left", box=None, padding=(0, 1))
    table.add_column("", no_wrap=True, max_width=NAME_WIDTH)
    for name in ("rows", "unsafe", *(column for column, _ in columns)):
        table.add_column(name, justify="right")
    return table


def _row(table: Table, name: str, part: dict[str, Any], columns: Columns, *, intervals: bool = False) -> None:
    from rich.text import Text

    cells = [_cell(part["figures"].get(key), intervals) for _, key in columns]
    table.add_row(Text(printable(name)), str(part.get("rows", "")), str(part.get("unsafe", "")), *cells)


def _cell(figure: dict[str, float | None] | None, intervals: bool) -> str:
    if figure is None or figure["value"] is None:
        return "·"
    value = _short(figure["value"])
    if not intervals or figure["low"] is None or figure["high"] is None:
        return value
    return f"{value}\n[dim]{_short(figure['low'])}-{_short(figure['high'])}[/]"


def _short(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}"
