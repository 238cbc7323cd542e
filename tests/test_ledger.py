"""The ledger counts, adds up and shows only what was counted."""

from __future__ import annotations

import json
import time

import pytest

from tokloom.ledger import Ledger, Row, Saving


def test_stage_appends_a_row_and_its_wall_time() -> None:
    ledger = Ledger()
    with ledger.stage("context", "bubble") as row:
        row.tokens_in, row.tokens_out = 1000, 100
        time.sleep(0.01)
    assert ledger.rows == [row]
    assert (row.stage, row.method) == ("context", "bubble")
    assert 0.01 <= row.seconds < 1
    assert 0 < row.processor_seconds < row.seconds  # it slept
    assert row.tokens_per_second == 1000 / row.seconds


def test_stage_keeps_row_and_time_when_the_block_fails() -> None:
    ledger = Ledger()
    with pytest.raises(ZeroDivisionError), ledger.stage("decode", "greedy") as row:
        row.tokens_out = 1 // 0
    assert ledger.rows == [row]
    assert row.seconds > 0
    assert row.tokens_out is None


def test_rows_keep_their_order_and_are_found_by_stage() -> None:
    ledger = Ledger()
    for stage in ("context", "attention", "decode"):
        with ledger.stage(stage, "m"):
            pass
    assert [row.stage for row in ledger.rows] == ["context", "attention", "decode"]
    assert ledger.row("attention") is ledger.rows[1]
    with pytest.raises(KeyError):
        ledger.row("tokenize")


@pytest.mark.parametrize(
    ("stage", "tokens_in", "tokens_out", "expected"),
    [
        ("attention", 300, None, 150.0),  # prompt tokens read a second
        ("decode", 300, 10, 5.0),  # tokens written a second
        ("context", 1000, 100, 500.0),
        ("decode", 300, None, None),
        ("attention", 0, None, None),
    ],
)
def test_tokens_per_second_counts_what_the_stage_made(
    stage: str, tokens_in: int, tokens_out: int | None, expected: float | None
) -> None:
    row = Row(stage, "m", tokens_in=tokens_in, tokens_out=tokens_out, seconds=2.0)
    assert row.tokens_per_second == expected


def test_tokens_per_second_without_time_is_not_counted() -> None:
    assert Row("decode", "m", tokens_out=5).tokens_per_second is None


@pytest.mark.parametrize(
    ("without", "with_", "share"), [(100, 25, 0.75), (100, 100, 0.0), (100, 150, -0.5), (0, 0, 0.0)]
)
def test_share_of_a_saving(without: float, with_: float, share: float) -> None:
    assert Saving("tokens", without, with_).share == pytest.approx(share)


def test_json_has_every_field_and_no_made_up_figure() -> None:
    ledger = Ledger()
    with ledger.stage("decode", "dense") as row:
        row.tokens_out, row.forward_passes = 8, 4
        row.counts["drafted"] = 12
        row.savings.append(Saving("forward passes", 8, 4))
    (data,) = json.loads(json.dumps(ledger.as_json()))
    assert data["tokens_in"] is None
    assert data["kv_bytes"] is None
    assert data["counts"] == {"drafted": 12}
    assert data["savings"] == [{"what": "forward passes", "without": 8, "with_": 4, "share": 0.5}]
    assert data["tokens_per_second"] == pytest.approx(8 / data["seconds"])


def test_ledgers_share_nothing() -> None:
    first, second = Ledger(), Ledger()
    with first.stage("a", "b") as row:
        row.counts["x"] = 1
        row.savings.append(Saving("y", 1, 0))
    assert second.rows == []
    assert Row("a", "b").counts == {}
    assert Row("a", "b").savings == []
