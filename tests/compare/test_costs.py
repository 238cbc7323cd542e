"""Costs are read off the ledger and averaged as their names say."""

from __future__ import annotations

import pytest

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom.compare.costs import COSTS, costs_of, number
from tokloom.context.selector import Document
from tokloom.engine.request import Result, Sampling
from tokloom.ledger import Ledger

TOTALS = {cost.key: cost.total for cost in COSTS}


def test_costs_of_an_answer() -> None:
    engine = FakeEngine(FakeModel(), answer=lambda prompt: "one two three")
    result = engine.generate("a question", documents=[Document("d", "four words are here")], sampling=Sampling())
    assert costs_of(result) == {
        "prompt_tokens": 2, "generated_tokens": 3, "document_tokens": 4, "kv_bytes": 102400, "kv_bytes_peak": 204800,
        "seen": 100, "held": 100, "attended": 300, "attendable": 300, "forward_passes": 2, "drafted": 0, "accepted": 0,
        "seconds": 0.875, "processor_seconds": 1.75, "seconds_context": 0.125,
        "seconds_prefill": 0.25, "seconds_decode": 0.5,
    }  # fmt: skip


def test_what_was_not_counted_is_left_out() -> None:
    assert costs_of(Result("", (), 5, "end", Ledger())) == {"prompt_tokens": 5, "generated_tokens": 0}
    assert all(total([{}]) is None for total in TOTALS.values())


def test_totals() -> None:
    answers = [
        {"kv_bytes": 2.0, "attended": 1.0, "attendable": 10.0, "seconds": 1.0},
        {"kv_bytes": 4.0, "attended": 8.0, "attendable": 8.0, "seconds": 9.0},
        {"seconds": 2.0},
    ]
    assert TOTALS["kv_bytes"](answers) == 3
    assert TOTALS["attended"](answers) == 0.5  # of all pairs, not the mean of shares
    assert TOTALS["seconds"](answers) == 2  # the middle: one slow answer does not count


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0312, "0.031"), (0.25, "0.25"), (8.254, "8.25"), (45.67, "45.7"), (41203.4, "41,203")],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text
