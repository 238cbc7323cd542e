"""From records to the rows of a table: means with their uncertainty, costs, and ratios to the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokloom.compare.costs import COSTS, Cost, number
from tokloom.compare.overview import overview

if TYPE_CHECKING:
    from tokloom.compare.records import Record

RESAMPLES = 2000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Interval:
    """A mean over examples and its 95% interval; low and high are NaN for a single example."""

    mean: float
    low: float
    high: float

    def text(self, sign: str = "") -> str:
        """ "0.812 [0.74, 0.88]"; `sign` "+" marks differences: "+0.031 [-0.02, +0.08]"."""
        if math.isnan(self.low):
            return f"{self.mean:{sign}.3f}"
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]"


def interval(values: Sequence[float]) -> Interval | None:
    """Mean and 95% percentile bootstrap over examples, with a fixed seed; None without a finite value.

    Small samples make it too narrow, and equal values give an interval of width 0: it says how much the mean hangs
    on the choice of examples, nothing of examples of another kind.
    """
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not len(finite):
        return None
    mean = float(finite.mean())
    if len(finite) == 1:
        return Interval(mean, math.nan, math.nan)
    drawn = np.random.default_rng(0).integers(0, len(finite), (RESAMPLES, len(finite)))
    low, high = np.quantile(finite[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(mean, float(low), float(high))


@dataclass(frozen=True)
class Summary:
    """One row: a method at a budget on a task, over the examples that it answered.

    quality: the main metric; other: the further ones. difference: quality less the baseline's on the examples that
    both answered, paired. costs: by `Cost.key`. ratios: costs over the baseline's, on those same examples.
    answered, failed: numbers of examples; a row that can't run at all has answered 0. errors: each text once.
    """

    task: str
    metric: str
    method: str
    label: str
    budget: int | None
    baseline: bool
    quality: Interval | None
    other: dict[str, Interval]
    difference: Interval | None
    costs: dict[str, float]
    ratios: dict[str, float]
    answered: int
    failed: int
    errors: tuple[str, ...]


def summarise(records: Iterable[Record]) -> list[Summary]:
    """One summary per task, method and budget.

    Tasks and methods stand in the order in which the records name them, the budgets of one method from large to
    small. The first method at its largest budget is the baseline of each task.
    """
    groups: dict[str, dict[tuple[str, str, int | None], list[Record]]] = {}
    labels: dict[str, int] = {}
    for record in records:
        labels.setdefault(record.label, len(labels))
        groups.setdefault(record.task, {}).setdefault((record.label, record.method, record.budget), []).append(record)
    summaries = []
    for rows in groups.values():
        order = sorted(rows, key=lambda row: (labels[row[0]], -(row[2] or 0)))
        first = rows[order[0]]
        summaries += [_summary(rows[row], first) for row in order]
    return summaries


def _summary(records: Sequence[Record], baseline: Sequence[Record]) -> Summary:
    one = records[0]
    done = {record.example: record for record in records if record.error is None}
    reference = {record.example: record for record in baseline if record.error is None}
    pairs = [(done[key], reference[key]) for key in done if key in reference]
    costs = _costs(list(done.values()))
    ours, theirs = _costs([pair[0] for pair in pairs]), _costs([pair[1] for pair in pairs])
    names = dict.fromkeys(name for record in done.values() for name in record.scores)
    means = {name: interval([r.scores[name] for r in done.values() if name in r.scores]) for name in names}
    scores = [(a.scores.get(one.metric, math.nan), b.scores.get(one.metric, math.nan)) for a, b in pairs]
    return Summary(
        task=one.task,
        metric=one.metric,
        method=one.method,
        label=one.label,
        budget=one.budget,
        baseline=records is baseline,
        quality=means.get(one.metric),
        other={name: mean for name, mean in means.items() if name != one.metric and mean is not None},
        difference=interval([a - b for a, b in scores]) if records is not baseline else None,
        costs=costs,
        ratios={key: ours[key] / theirs[key] for key in ours if theirs.get(key)},
        answered=len(done),
        failed=sum(record.error is not None for record in records),
        errors=tuple(dict.fromkeys(record.error for record in records if record.error is not None)),
    )


def _costs(records: Sequence[Record]) -> dict[str, float]:
    totals = {cost.key: cost.total([record.costs for record in records]) for cost in COSTS}
    return {key: value for key, value in totals.items() if value is not None}


def columns(summaries: Iterable[Summary]) -> list[Cost]:
    """The costs that some row has and that are not 0 throughout."""
    rows = list(summaries)
    return [cost for cost in COSTS if any(row.costs.get(cost.key) for row in rows)]


def ratio(value: float) -> str:
    """ "×0.25", "×12.3"; nothing where both are the same, so that what differs stands out."""
    return f"×{number(value)}" if number(value) != "1.00" else ""


def render(records: Iterable[Record], width: int = 120) -> RenderableType:
    """Two tables per task, quality and cost, and one over all tasks, for a terminal; ratios are to the first row.

    Args:
        width: columns of the terminal; costs that do not fit go to a further table.
    """
    records = list(records)
    summaries = summarise(records)
    blocks: list[RenderableType] = []
    for task in dict.fromkeys(summary.task for summary in summaries):
        rows = [summary for summary in summaries if summary.task == task]
        answered = [row for row in rows if row.answered]
        costs = [(cost.heading, [_cost(row, cost) for row in answered]) for cost in columns(answered)]
        blocks.append(Text.assemble((task, "bold"), f"  {_size(rows)}"))
        for table in [*_tables(rows, _quality(rows), width), *_tables(answered, costs, width)]:
            blocks += [table, Text()]
        for row in rows:
            for error in row.errors:
                count = f" ({row.failed} of {row.failed + row.answered} examples)" if row.answered else ""
                blocks += [Text.assemble((f"{_name(row)}{count}: ", "yellow"), error), Text()]
    title, together = overview(records, summaries)
    if together:
        first = [summary for summary in summaries if summary.task == summaries[0].task]
        blocks.append(Text.assemble((title, "bold"), "  × to the first row" * any("×" in c for c in together[0][1])))
        for table in _tables(first, together, width):
            blocks += [table, Text()]
    return Group(*blocks)


def _size(rows: Sequence[Summary]) -> str:
    most = max(row.answered for row in rows)
    return f"{most} example{'s' * (most != 1)}, mean [95% interval], difference and × to the first row"


def _name(row: Summary) -> str:
    return row.label if row.budget is None else f"{row.label} at {row.budget}"


Column = tuple[str, list[str]]
"""A heading and a cell per row."""


def _quality(rows: Sequence[Summary]) -> list[Column]:
    names = list(dict.fromkeys(name for row in rows for name in row.other))
    return [
        (rows[0].metric, [row.quality.text() if row.quality else "can't run" * (not row.answered) for row in rows]),
        ("difference", [row.difference.text("+") if row.difference else "" for row in rows]),
        *((name, [f"{row.other[name].mean:.3f}" if name in row.other else "" for row in rows]) for name in names),
        ("n", [str(row.answered) for row in rows]),
    ]


def _tables(rows: Sequence[Summary], wanted: Sequence[Column], width: int) -> list[Table]:
    """As many tables as it takes to show all columns within the width, each with the rows' names."""
    heads: list[Column] = [("method", [row.label for row in rows])]
    if any(row.budget is not None for row in rows):
        heads.append(("budget", ["" if row.budget is None else f"{row.budget:,}" for row in rows]))
    # A long spec is folded, so that the numbers have at least two thirds of the width.
    head = min(_wide(heads[0]), max(width // 3, 12)) + sum(map(_wide, heads[1:]))
    parts: list[list[Column]] = []
    used = width
    for column in wanted:
        if not parts or used + _wide(column) > width:
            parts.append([])
            used = head
        parts[-1].append(column)
        used += _wide(column)
    tables = []
    for part in parts:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for i, (heading, _) in enumerate([*heads, *part]):
            table.add_column(heading, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
        for i in range(len(rows)):
            table.add_row(*(Text(cells[i]) for _, cells in [*heads, *part]))
        tables.append(table)
    return tables


def _wide(column: Column) -> int:
    heading, cells = column
    return max(map(len, [heading, *cells])) + 3  # and what lies between two columns


def _cost(row: Summary, cost: Cost) -> str:
    if cost.key not in row.costs:
        return ""
    times = ratio(row.ratios[cost.key]) if cost.key in row.ratios else ""
    return f"{cost.text(row.costs[cost.key])} {times}".rstrip()
