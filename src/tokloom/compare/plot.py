"""Quality against cost as inline SVG whose colours come from the page, for light and dark."""

from __future__ import annotations

import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tokloom.compare.costs import Cost, number
from tokloom.compare.summary import Summary

# Stand-ins that the SVG is drawn with; the page's CSS gives each a colour in light and in dark.
INK, GRID, CONTROL = "#010101", "#020202", "#030303"
SERIES = ("#030001", "#030002", "#030003", "#030004", "#030005", "#030006")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", CONTROL: "var(--soft)"}
_VARIABLES |= {c: f"var(--series-{i})" for i, c in enumerate(SERIES, 1)}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a label may hold a dollar sign
    "svg.fonttype": "none",  # text stays text: sharp, selectable, and small
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
}
LOG_SPAN = 8
"""From this ratio of the largest to the smallest cost on the axis is logarithmic."""


def drawable(rows: Sequence[Summary], cost: Cost) -> list[Summary]:
    """The rows that have both coordinates."""
    return [row for row in rows if row.quality is not None and cost.key in row.costs]


def plot(rows: Sequence[Summary], cost: Cost, control: str | None = None) -> str:
    """An ``<svg>`` element: quality of one task upwards, cost to the right, one line per method over its budgets.

    Bars are 95% intervals; the dashed line is the baseline's quality. Each point of a line bears its budget. More
    methods than one picture can show are spread over panels of the same axes, with the baseline and the control in
    each.

    Args:
        rows: summaries of one task, at least one of them `drawable`.
        control: the label of the row that is drawn in grey.
    """
    rows = drawable(rows, cost)
    labels = list(dict.fromkeys(row.label for row in rows))
    common = [label for label in labels if label == control or any(r.baseline for r in rows if r.label == label)]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"{rows[0].task}/{cost.key}"}):
        if len(labels) <= len(SERIES) + len(common):
            figure = Figure(figsize=(7.6, 4.1))
            axes = figure.add_axes((LEFT, 0.135, WIDTH, 0.83))
            _draw(axes, rows, cost, labels, common)
            axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), **_LEGEND)
        else:
            figure = _panels(rows, cost, labels, common)
        return _inline(figure, f"{rows[0].metric} against {cost.axis}")


LEFT, WIDTH = 0.115, 0.575
"""Of the axes, as shares of a figure's width: a negative quality and its name need room."""

_LEGEND: dict[str, Any] = {"frameon": False, "borderaxespad": 0, "fontsize": 9, "handlelength": 1.6}


def _panels(rows: Sequence[Summary], cost: Cost, labels: Sequence[str], common: Sequence[str]) -> Figure:
    """Panels one below the other, each with as many methods as there are colours, and its legend beside it."""
    own = [label for label in labels if label not in common]
    groups = [own[i : i + len(SERIES)] for i in range(0, len(own), len(SERIES))]
    height = 3.0 * len(groups) + 0.35  # inches
    figure = Figure(figsize=(7.6, height))
    first = None
    for i, group in enumerate(groups):
        bottom = (3.0 * (len(groups) - 1 - i) + 0.6) / height
        axes = figure.add_axes((LEFT, bottom, WIDTH, 2.6 / height), sharex=first, sharey=first)
        shown = [*common, *group]
        _draw(axes, [row for row in rows if row.label in shown], cost, shown, common, among=rows)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), **_LEGEND)
        axes.set_ylabel(rows[0].metric)  # a panel is too low for more
        if i < len(groups) - 1:
            axes.set_xlabel("")
        first = first or axes
    return figure


def _draw(
    axes: matplotlib.axes.Axes,
    rows: Sequence[Summary],
    cost: Cost,
    labels: Sequence[str],
    common: Sequence[str],
    among: Sequence[Summary] | None = None,
) -> None:
    """One panel. common: the labels of baseline and control, which take no colour. among: all rows, for the axis."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)
    own = [label for label in labels if label not in common]
    colours = {label: SERIES[i % len(SERIES)] for i, label in enumerate(own)}
    for i, label in enumerate(common):
        colours[label] = (INK, CONTROL)[min(i, 1)]
    for i, label in enumerate(labels):
        _line(axes, [row for row in rows if row.label == label], cost, colours[label], i)
    for row in rows:
        if row.baseline and row.quality is not None:
            axes.axhline(row.quality.mean, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlabel(cost.axis)
    axes.set_ylabel(f"{rows[0].metric} (mean, 95% interval)")
    _scale(axes, [row.costs[cost.key] * cost.scale for row in among or rows])
    _budgets(axes, rows, cost, colours)


def _line(axes: matplotlib.axes.Axes, rows: Sequence[Summary], cost: Cost, colour: str, i: int) -> None:
    rows = sorted(rows, key=lambda row: row.budget or 0)
    xs = [row.costs[cost.key] * cost.scale for row in rows]
    ys = [row.quality.mean for row in rows if row.quality is not None]
    spread = [
        [0.0 if math.isnan(q.low) else q.mean - q.low for row in rows if (q := row.quality)],
        [0.0 if math.isnan(q.low) else q.high - q.mean for row in rows if (q := row.quality)],
    ]
    axes.errorbar(
        xs, ys, yerr=spread, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=6, linewidth=1.6,
        elinewidth=1, capsize=2.5, label=_wrapped(rows[0].label), zorder=3,
    )  # fmt: skip


_ALONG = [i / 24 for i in range(25)]
_PLACES = ((6, 3, "left"), (6, -11, "left"), (-6, 3, "right"), (-6, -11, "right"), (6, 9, "left"), (6, -17, "left"))


def _by_line(point: tuple[tuple[str, int | None], tuple[float, float]]) -> tuple[str, int]:
    (label, budget), _ = point
    return label, budget or 0


def _budgets(axes: matplotlib.axes.Axes, rows: Sequence[Summary], cost: Cost, colours: Mapping[str, str]) -> None:
    """Writes the budget beside each point of a line, on the first side where it covers no other text or point.

    Where all sides are taken the label is left out: the table has the number.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    scale = 72 / figure.dpi  # pixels to points

    def at(row: Summary) -> tuple[float, float]:
        mean = row.quality.mean if row.quality is not None else 0.0
        x, y = axes.transData.transform((row.costs[cost.key] * cost.scale, mean))
        return float(x) * scale, float(y) * scale

    points = {(row.label, row.budget): at(row) for row in rows}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points.values()]
    for (one, (x, y)), (two, (u, v)) in itertools.pairwise(sorted(points.items(), key=_by_line)):
        if one[0] == two[0]:  # the line between them
            taken += [
                (x + (u - x) * t - 1, y + (v - y) * t - 1, x + (u - x) * t + 1, y + (v - y) * t + 1) for t in _ALONG
            ]
    several = {label for label in colours if sum(row.label == label for row in rows) > 1}
    for row in rows:
        if row.budget is None or row.label not in several:
            continue
        text = f"{row.budget:,}"
        x, y = points[row.label, row.budget]
        for dx, dy, side in _PLACES:
            left = x + dx if side == "left" else x + dx - 5 * len(text)
            box = (left, y + dy, left + 5 * len(text), y + dy + 8)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                taken.append(box)
                axes.annotate(
                    text, (row.costs[cost.key] * cost.scale, row.quality.mean if row.quality else 0.0),
                    textcoords="offset points", xytext=(dx, dy), ha=side, va="bottom", fontsize=8,
                    color=colours[row.label], zorder=4,
                )  # fmt: skip
                break


def _wrapped(label: str, width: int = 28) -> str:
    """A long spec on several lines, broken after commas and the colon."""
    lines = [""]
    for part in re.findall(r"[^,:]+[,:]?", label):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n  ".join(lines)


def _scale(axes: matplotlib.axes.Axes, xs: Sequence[float]) -> None:
    low, high = min(xs), max(xs)
    if low > 0 and high / low >= LOG_SPAN:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.08 * (high - low) or 0.5 * high or 1.0
        axes.set_xlim(max(0.0, low - room) if low >= 0 else low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    return number(value) if value < 100 and value != int(value) else f"{value:,.0f}"


def _inline(figure: Figure, title: str) -> str:
    """The figure as an element of a page: nothing in it names another file, a font, or an id that another plot has."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None  # matplotlib always writes one
    body = svg[svg.index(">", box.end()) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r' id="[\w.]+_\d+"', "", body)  # figure_1, axes_1: only the hashed ids are referred to
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body).replace("xlink:href", "href")
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(title)}">{body.strip()}'
