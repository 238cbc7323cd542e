"""All tasks of a comparison in one table: a row per method and budget, a column per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokloom.compare.costs import COSTS, number
from tokloom.spec import parse_spec

if TYPE_CHECKING:
    from tokloom.compare.records import Record
    from tokloom.compare.summary import Summary

HEADLINES = {"decode": "tokens_per_second"}
"""The cost that a stage's overview shows in place of quality, which lossless methods share."""


def overview(records: Sequence[Record], summaries: Sequence[Summary]) -> tuple[str, list[tuple[str, list[str]]]]:
    """What is shown, and columns of texts: for each task, and, of a cost, over all examples of all tasks.

    Rows are those of the first task. Without a second task there is nothing to put side by side: no columns.
    """
    tasks = list(dict.fromkeys(summary.task for summary in summaries))
    if len(tasks) < 2:
        return "", []
    cost = next((cost for cost in COSTS if cost.key == HEADLINES.get(records[0].stage)), None)
    found = {(summary.task, summary.method): summary for summary in summaries}
    methods = [summary.method for summary in summaries if summary.task == tasks[0]]
    names = short_names(tasks)
    if cost is None:
        metrics = {summary.task: summary.metric for summary in summaries}
        alike = len(set(metrics.values())) == 1

        def quality(task: str, method: str) -> str:
            row = found.get((task, method))
            return f"{row.quality.mean:.3f}" if row is not None and row.quality is not None else ""

        heads = {task: names[task] if alike else f"{names[task]}, {metrics[task]}" for task in tasks}
        title = f"All tasks: {metrics[tasks[0]]}" if alike else "All tasks"
        return title, [(heads[task], [quality(task, method) for method in methods]) for task in tasks]

    def cells(totals: Mapping[str, float | None]) -> list[str]:
        first = totals.get(methods[0])
        texts = []
        for method in methods:
            total = totals.get(method)
            times = f" ×{number(total / first)}" if total and first and method != methods[0] else ""
            texts.append("" if total is None else cost.text(total) + times)
        return texts

    columns = [
        (names[task], cells({m: found[task, m].costs.get(cost.key) for m in methods if (task, m) in found}))
        for task in tasks
    ]
    answered: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        if record.error is None:
            answered.setdefault(record.method, []).append(record.costs)
    return f"All tasks: {cost.axis}", [*columns, ("all", cells({m: cost.total(c) for m, c in answered.items()}))]


def short_names(specs: Sequence[str]) -> dict[str, str]:
    """Each spec by what tells it apart: the values of the options in which specs of one method differ."""
    parsed = {spec: parse_spec(spec) for spec in specs}
    names: dict[str, str] = {}
    for spec, (name, options) in parsed.items():
        others = [other for other_name, other in parsed.values() if other_name == name]
        differ = {key: value for key, value in options.items() if any(_other(o, key, value) for o in others)}
        if len(differ) == 1 and all(set(differ) <= set(other) for other in others):
            names[spec] = str(next(iter(differ.values())))
        else:
            names[spec] = " ".join([name, *(f"{key}={value}" for key, value in differ.items())])
    return names


def _other(options: Mapping[str, Any], key: str, value: Any) -> bool:
    return bool(options.get(key) != value)
