"""The report as one self-contained HTML page: no script, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources
from typing import Any, TypeAlias

from guardmw.evaluation.svg import precision_recall, reliability_diagram

__all__ = ["page"]

Report: TypeAlias = dict[str, Any]
Columns: TypeAlias = Sequence[tuple[str, str]]

TILES: Columns = (
    ("recall", "unsafe rows flagged"), ("fpr", "safe rows flagged (FPR)"), ("f1", "F1 at the threshold"),
    ("best_f1", "best F1"), ("auroc", "AUROC"), ("auprc", "AUPRC"), ("category_accuracy", "category right"),
    ("ece", "calibration error (ECE)"),
)  # fmt: skip
ALL: Columns = (
    ("recall", "recall"), ("fpr", "FPR"), ("precision", "precision"), ("f1", "F1"), ("best_f1", "best F1"),
    ("auroc", "AUROC"), ("auprc", "AUPRC"), ("category_accuracy", "category"), ("brier", "Brier"), ("ece", "ECE"),
)  # fmt: skip
SLICE: Columns = (("recall", "recall"), ("fpr", "FPR"), ("f1", "F1"), ("auroc", "AUROC"), ("ece", "ECE"))
STREAM: Columns = (
    ("missed", "missed"), ("fpr", "FPR"), ("f1", "F1"), ("on_time", "on time"), ("early", "early"),
    ("stopped_within_128_of_onset", "≤ 128 tokens after onset"),
    ("stopped_within_128_of_start", "≤ 128 tokens from start"), ("fraction_seen", "fraction seen"),
    ("leaked_words", "words leaked"), ("leaked_words_when_stopped", "words leaked, if stopped"),
    ("guard_tokens_per_token", "guard tokens per token"), ("checks_per_100_tokens", "checks per 100 tokens"),
)  # fmt: skip
SHARES = {key for columns in (ALL, STREAM) for key, _ in columns} - {
    "leaked_words", "leaked_words_when_stopped", "guard_tokens_per_token", "checks_per_100_tokens"
}  # fmt: skip
LOW_IS_GOOD = {"fpr", "missed", "ece", "brier"}


def page(found: Report) -> str:
    """The page for the report that `guardmw.evaluation.run` made. Text of rows is in it only if it is in there."""
    style = resources.files("guardmw.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    title = escape(f"{found['guard']['name']} {found['guard']['version']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>guardmw eval: {title}</title><style>{style}</style></head><body><main>\n"
        f'<h1>{title}</h1><p class="soft">{_setting(found)}</p>\n'
        + "\n".join(_sections(found))
        + "\n</main></body></html>\n"
    )


def _sections(found: Report) -> Iterator[str]:
    yield from _notes(found)
    yield _tiles(found)
    yield _overall(found)
    yield from _plots(found)
    yield _slices(found)
    if found.get("streaming", {}).get("overall", {}).get("rows"):
        yield _streams(found["streaming"])
    if "worst" in found:
        yield _worst(found["worst"])
    yield _data(found)


def _setting(found: Report) -> str:
    options, policy = found["options"], found["policy"]
    threshold = options["threshold"]
    parts = [
        f"guardmw {found['guardmw']}",
        f"{found['data']['judged']:,} rows of {len(found['data']['files'])} files",
        f"policy {policy['id']} ({policy['hash']})" if policy else "policies made from the rows' taxonomies",
        "thresholds of the policy" if threshold is None else f"threshold {threshold:g}",
        f"seed {options['seed']}",
        f"95% intervals from {options['bootstrap']} resamplings" if options["bootstrap"] else "no intervals",
    ]
    if options["limit"]:
        parts.append(f"at most {options['limit']} rows of each file")
    return escape(" · ".join(parts))


def _notes(found: Report) -> Iterator[str]:
    errors, data = found["overall"]["errors"], found["data"]
    if errors["kinds"]:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in errors["kinds"].items())
        yield (
            f'<div class="note"><b>The guard failed on some rows</b> ({escape(kinds)}). '
            f"{errors['unsafe_counted_as_missed']} unsafe ones count as missed, {errors['safe_left_out']} safe ones "
            f"are left out of every figure, {errors['flagged_all_the_same']} are flagged by another check.</div>"
        )
    if data["left_out"]:
        whys = "".join(f"<li>{count}: {escape(why)}</li>" for why, count in list(data["left_out_why"].items())[:10])
        yield (
            f'<div class="note"><b>{data["left_out"]} rows or files could not be used</b> '
            f"({data['left_out_share']:.2%} of the data).<ul>{whys}</ul></div>"
        )


def _tiles(found: Report) -> str:
    figures, latency = found["overall"]["figures"], found["latency_ms"]
    tiles = [_tile(says, figures[key]) for key, says in TILES if key in figures]
    streamed = found.get("streaming", {}).get("overall", {}).get("figures", {})
    if "fpr" in streamed:
        tiles.append(_tile("safe streams stopped (FPR)", streamed["fpr"]))
    if latency["checks"]:
        tiles.append(
            f'<div class="tile"><span>one check, median</span><b>{latency["p50"]:.1f} ms</b>'
            f"<small>p95 {latency['p95']:.1f} ms, one at a time</small></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(says: str, figure: Report) -> str:
    number = f"<b>{_number(figure['value'])}</b><small>{_range(figure)}</small>"
    return f'<div class="tile"><span>{escape(says)}</span>{number}</div>'


def _overall(found: Report) -> str:
    macro = {"figures": found["macro"]}
    rows = [_row("all rows (micro)", found["overall"], ALL), _row("mean of sources (macro)", macro, ALL)]
    rows += [_row(part["name"], part, ALL) for part in found["slices"]["task"]]
    return (
        "<h2>All figures</h2><p class='soft'>A slice with one label only has its one rate. Macro: each figure's mean "
        "over the sources where it is defined.</p>" + _table("", ALL, rows)
    )


def _plots(found: Report) -> Iterator[str]:
    parts = [part for part in (found["overall"], *found["slices"]["task"]) if "curve" in part]
    if parts:
        yield (
            "<h2>Precision and recall</h2><p class='soft'>The dot is the threshold in force; dashed: flagging "
            "everything; grey: equal F1.</p>" + _grid((part, _curve(part)) for part in parts)
        )
        yield (
            "<h2>Reliability</h2><p class='soft'>A calibrated guard lies on the diagonal. "
            "Larger dots hold more rows.</p>"
            + _grid((part, reliability_diagram(part["reliability"])) for part in parts)
        )


def _curve(part: Report) -> str:
    recall, precision = (part["figures"][key]["value"] for key in ("recall", "precision"))
    at = None if recall is None or precision is None else (recall, precision)
    counting = part["rows"] - part["errors"]["safe_left_out"]
    return precision_recall(part["curve"], part["unsafe"] / counting, at)


def _grid(plots: Iterable[tuple[Report, str]]) -> str:
    figures = "".join(
        f"<figure><figcaption>{escape(part['name'])} <small>{part['rows']:,} rows</small></figcaption>{plot}</figure>"
        for part, plot in plots
    )
    return f'<div class="plots">{figures}</div>'


def _slices(found: Report) -> str:
    rows = [_row(part["name"], part, SLICE) for part in found["slices"]["source_task"]]
    return "<h2>Source by task</h2>" + _table("source / task", SLICE, rows)


def _streams(streaming: Report) -> str:
    rows = [_row("all", streaming["overall"], STREAM, total=True)]
    rows += [_row(part["name"], part, STREAM) for part in streaming["source"]]
    overall = streaming["overall"]
    whole = _number(overall["whole_text_f1"])
    return (
        f"<h2>Responses as streams</h2><p class='soft'>Each response went through the stream window of its policy. "
        f"{overall['onset_labelled']} of {overall['unsafe']} unsafe ones say where the unsafe part begins; on time and "
        f"early are about those. The same rows judged whole reach F1 {whole}.</p>" + _table("source", STREAM, rows)
    )


def _table(corner: str, columns: Columns, rows: Iterable[str]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in (corner, "rows", "unsafe", *(name for _, name in columns)))
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, part: Report, columns: Columns, *, total: bool = False) -> str:
    cells = "".join(_cell(key, part["figures"].get(key)) for key, _ in columns)
    counts = "".join(f"<td>{part[key]:,}</td>" if key in part else "<td></td>" for key in ("rows", "unsafe"))
    kind = ' class="total"' if total else ""
    return f"<tr{kind}><th>{escape(name)}</th>{counts}{cells}</tr>"


def _cell(key: str, figure: Report | None) -> str:
    if figure is None or figure["value"] is None:
        return '<td class="soft">·</td>'
    kind = ' class="bad"' if key in LOW_IS_GOOD else ""
    bar = _bar(figure) if key in SHARES else ""
    return f"<td{kind}>{_number(figure['value'])}{bar}<small>{_range(figure)}</small></td>"


def _bar(figure: Report) -> str:
    low, high = (figure[key] if figure[key] is not None else figure["value"] for key in ("low", "high"))
    return (
        f'<span class="bar"><i class="range" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
        f'<i class="at" style="left:{100 * figure["value"]:.1f}%"></i></span>'
    )


def _number(value: float | None) -> str:
    if value is None:
        return "·"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _range(figure: Report) -> str:
    return "" if figure["low"] is None else f"{_number(figure['low'])} to {_number(figure['high'])}"


def _worst(worst: Report) -> str:
    titles = {"false_positives": "Safe rows flagged most surely", "false_negatives": "Unsafe rows passed most surely"}
    return "<h2>Worst mistakes</h2>" + "".join(
        f"<p><b>{title}</b></p>" + ("".join(map(_mistake, worst[key])) or "<p class='soft'>none</p>")
        for key, title in titles.items()
    )


def _mistake(row: Report) -> str:
    about = f"{row['score']:.3f} · {row['source']} / {row['task']} · {row['file']}:{row['line']}"
    names = ", ".join(row["categories"]) or "no category"
    context = f"<p class='soft'>after</p><pre>{escape(row['prompt'])}</pre>" if row["prompt"] else ""
    return (
        f"<details><summary>{escape(about)}</summary><p class='soft'>labelled: {escape(names)}; likeliest: "
        f"{escape(row['top'] or 'none')}</p>{context}<pre>{escape(row['content'])}</pre></details>"
    )


def _rest(file: Report) -> str:
    if not file["broken"]:
        return ""
    return " and the rest of the file" if file["files"] == 1 else f" and the rest of {file['broken']:,} files"


def _data(found: Report) -> str:
    rows = "".join(
        f"<tr><th>{escape(file['path'])}</th><td>{file['judged']:,}</td><td>{file['rows']:,}</td>"
        f"<td>{file['left_out']:,}{_rest(file)}</td>"
        f"<td class='left'><code>{file['sha256'][:16]}</code></td></tr>"
        for file in found["data"]["files"]
    )
    heads = "<tr><th>file</th><th>judged</th><th>usable</th><th>left out</th><th>SHA-256 begins</th></tr>"
    return f'<h2>Data</h2><div class="scroll"><table><thead>{heads}</thead><tbody>{rows}</tbody></table></div>'
