"""From records to summaries: means with their uncertainty, costs, and ratios to the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tokloom.compare.costs import COSTS, Cost, number

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
