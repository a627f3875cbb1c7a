"""Diagrams of the report as inline SVG: unit squares, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = ["precision_recall", "reliability_diagram"]

SIDE, LEFT, TOP, RIGHT, BOTTOM = 200, 34, 10, 10, 34
WIDTH, HEIGHT = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
F1_LINES = (0.5, 0.7, 0.9)


def precision_recall(curve: Sequence[Sequence[float]], share_unsafe: float, at: tuple[float, float] | None) -> str:
    """The curve of (threshold, precision, recall), the precision of flagging all, lines of equal F1, and the (recall,
    precision) at the threshold in force."""
    points = [(recall, precision) for _, precision, recall in curve]
    points = [(0.0, points[0][1]), *points]
    parts = [
        *(_line(_equal_f1(f1), "faint") for f1 in F1_LINES),
        *(_text(_x(1) - 3, _y(f1 / (2 - f1)) - 3, f"F1 {f1:g}", "tick end") for f1 in F1_LINES),
        _line([(0.0, share_unsafe), (1.0, share_unsafe)], "dashed"),
        _line(points, "curve"),
    ]
    if at is not None:
        parts.append(_dot(*at, "mark", f"recall {at[0]:.3f}, precision {at[1]:.3f} at the threshold"))
    return _square(parts, "recall", "precision")


def reliability_diagram(bins: Iterable[dict[str, Any]]) -> str:
    """Mean probability against the share that is unsafe, a dot per bin, larger with more rows."""
    bins = list(bins)
    most = max((each["rows"] for each in bins), default=1)
    dots = [
        _dot(each["score"], each["unsafe"], "bin",
             f"{each['rows']} rows: probability {each['score']:.2f}, {each['unsafe']:.0%} unsafe",
             2.5 + 5 * (each["rows"] / most) ** 0.5)
        for each in bins
    ]  # fmt: skip
    path = _line([(each["score"], each["unsafe"]) for each in bins], "thin")
    return _square([_line([(0, 0), (1, 1)], "dashed"), path, *dots], "probability", "share unsafe")


def _equal_f1(f1: float) -> list[tuple[float, float]]:
    """Points (recall, precision) of one F1, from the upper edge of the square to its right one."""
    first = f1 / (2 - f1)
    recalls = [first + (1 - first) * step / 24 for step in range(25)]
    return [(recall, f1 * recall / (2 * recall - f1)) for recall in recalls]


def _square(parts: Iterable[str], below: str, beside: str) -> str:
    ticks = "".join(
        _line([(0, at), (1, at)], "grid") + _line([(at, 0), (at, 1)], "grid")
        + _text(LEFT - 5, _y(at) + 3, f"{at:g}", "tick end") + _text(_x(at), TOP + SIDE + 13, f"{at:g}", "tick mid")
        for at in TICKS
    )  # fmt: skip
    names = (
        _text(LEFT + SIDE / 2, HEIGHT - 6, below, "axis mid")
        + f'<text class="axis mid" transform="rotate(-90)" x="{-(TOP + SIDE / 2)}" y="9">{escape(beside)}</text>'
    )
    label = escape(f"{beside} against {below}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{ticks}{"".join(parts)}{names}</svg>'


def _x(share: float) -> float:
    return round(LEFT + SIDE * share, 1)


def _y(share: float) -> float:
    return round(TOP + SIDE * (1 - share), 1)


def _line(points: Iterable[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{_x(x)},{_y(y)}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def _dot(x: float, y: float, kind: str, says: str, radius: float = 4.5) -> str:
    return f'<circle class="{kind}" cx="{_x(x)}" cy="{_y(y)}" r="{radius:.1f}"><title>{escape(says)}</title></circle>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
