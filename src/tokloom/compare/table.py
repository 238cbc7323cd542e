"""Records as tables for a terminal: quality and cost of each task, and all tasks together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokloom.compare.costs import Cost
from tokloom.compare.overview import overview
from tokloom.compare.summary import Summary, columns, ratio, summarise

if TYPE_CHECKING:
    from tokloom.compare.records import Record


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
    maximum = max(row.answered for row in rows)
    return f"{maximum} example{'s' * (maximum != 1)}, mean [95% interval], difference and × to the first row"


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
