"""Means, intervals, ratios to the baseline, and the table that shows them."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.compare.test_records import record
from tokloom.compare.records import Record
from tokloom.compare.summary import Summary, columns, interval, ratio, summarise
from tokloom.compare.table import render


def row(method: str, budget: int | None, scores: list[float], kv_mib: float, task: str = "needle") -> list[Record]:
    """A record per score."""
    return [
        record(
            str(i), method=method if budget is None else f"{method}:budget={budget}", label=method, budget=budget,
            task=task, scores={"digit_accuracy": score, "nll": 3 - score},
            costs={"kv_bytes": kv_mib * 2**20, "seconds": 1.0 + i, "generated_tokens": 4, "seconds_decode": 2.0},
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip


RECORDS = [
    *row("h2o", 64, [0, 0.25, 0, 0.25], 2.5),
    *row("dense", None, [1, 1, 1, 0.5], 40),
    *row("h2o", 256, [0.5, 0.5, 0.25, 0.5], 10),
]


def test_interval() -> None:
    assert interval([]) is None
    assert interval([math.nan]) is None
    one = interval([0.25])
    assert one is not None
    assert (one.mean, math.isnan(one.low), one.text()) == (0.25, True, "0.250")
    same = interval([0.5] * 9)
    assert same is not None
    assert (same.low, same.high) == (0.5, 0.5)
    assert same.text("+") == "+0.500 [+0.50, +0.50]"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_interval_holds_the_mean(values: list[float]) -> None:
    found = interval(values)
    assert found is not None
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values) + 1e-9


def test_interval_covers_as_said() -> None:
    """95% of the intervals of 40 tosses of a fair coin hold one half; the bootstrap is a little narrow."""
    import random

    draw = random.Random(0)
    found = [interval([float(draw.random() < 0.5) for _ in range(40)]) for _ in range(300)]
    covered = sum(i.low <= 0.5 <= i.high for i in found if i is not None)
    assert 0.90 <= covered / 300 <= 0.98


def test_rows_in_order() -> None:
    """Methods as they are first named, the budgets of one together and from large to small."""
    assert [(s.label, s.budget, s.baseline) for s in summarise(RECORDS)] == [
        ("h2o", 256, True), ("h2o", 64, False), ("dense", None, False),
    ]  # fmt: skip


def summary(label: str, budget: int | None = None) -> Summary:
    return next(s for s in summarise([*RECORDS[4:8], *RECORDS]) if (s.label, s.budget) == (label, budget))


def test_means_and_ratios() -> None:
    dense, small = summary("dense"), summary("h2o", 64)
    assert dense.quality is not None
    assert small.difference is not None
    assert (dense.baseline, dense.difference, dense.quality.mean, dense.answered) == (True, None, 0.875, 4)
    assert small.difference.mean == pytest.approx(0.125 - 0.875)
    assert small.other["nll"].mean == pytest.approx(3 - 0.125)
    assert small.costs["kv_bytes"] == 2.5 * 2**20
    assert small.costs["seconds"] == 2.5  # the median of 1, 2, 3, 4
    assert small.costs["tokens_per_second"] == 2
    assert small.ratios["kv_bytes"] == pytest.approx(1 / 16)


def test_ratios_are_over_common_examples() -> None:
    """An example that one of them did not answer must not shift the comparison."""
    base = row("dense", None, [1, 1, 0], 40)
    other = [
        *row("h2o", 64, [1, 1], 10),
        record("2", method="h2o:budget=64", label="h2o", scores={}, costs={}, error="no"),
    ]
    _, small = summarise([*base, *other])
    assert small.difference is not None
    assert (small.difference.mean, small.ratios["seconds"]) == (0, 1)
    assert (small.answered, small.failed, small.errors) == (2, 1, ("no",))


def test_columns_leave_out_what_nobody_has() -> None:
    assert [cost.key for cost in columns(summarise(RECORDS))] == [
        "kv_bytes",
        "seconds_decode",
        "seconds_per_token",
        "seconds",
        "tokens_per_second",
    ]


def test_ratio() -> None:
    assert [ratio(value) for value in (0.0625, 0.25, 1.0, 12.34)] == ["×0.062", "×0.25", "", "×12.3"]


def shown(records: list[Record], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(records, width))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 100, 160])
def test_render(width: int) -> None:
    failed = record(
        "", method="token_select:budget=64", label="token_select", task="needle", scores={}, costs={},
        error="token_select[x] and fake can't be combined: [bold]no[/bold].",
    )  # fmt: skip
    text = shown(
        [*row("dense", None, [1, 1, 1, 0.5], 40), *RECORDS[:4], *row("dense", None, [1], 40, "squad"), failed], width
    )
    assert "0.875 [0.62, 1.00]" in text
    assert "-0.750" in text
    assert "2.50 ×0.062" in text
    assert "4 examples" in text
    assert "1 example," in text
    assert "can't run" in text
    assert "[bold]no[/bold]" in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
