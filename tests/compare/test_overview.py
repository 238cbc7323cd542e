"""One table over all tasks: which rows and columns it has, and what it sums."""

from __future__ import annotations

from dataclasses import replace

from tests.compare.test_table import RECORDS, row
from tokloom.compare.overview import overview, short_names
from tokloom.compare.records import Record
from tokloom.compare.summary import summarise


def shown(records: list[Record]) -> tuple[str, dict[str, list[str]]]:
    title, columns = overview(records, summarise(records))
    return title, dict(columns)


def test_quality_by_task() -> None:
    other = [*row("h2o", 64, [0.5], 2.5, "squad"), *row("dense", None, [1], 40, "squad")]
    title, columns = shown([*RECORDS, *other])
    assert title == "All tasks: digit_accuracy"
    assert columns == {"needle": ["0.438", "0.125", "0.875"], "squad": ["", "0.500", "1.000"]}


def test_one_task_needs_none() -> None:
    assert shown(RECORDS) == ("", {})


def test_speed_of_decoding_by_task_and_over_all() -> None:
    def timed(method: str, task: str, tokens: int, seconds: float) -> Record:
        (one,) = row(method, None, [1], 1, task)
        return replace(one, stage="decode", costs={"generated_tokens": tokens, "seconds_decode": seconds})

    records = [
        timed("plain", "spec_bench:category=qa", 10, 1), timed("merged", "spec_bench:category=qa", 10, 0.5),
        timed("plain", "spec_bench:category=rag", 90, 3), timed("merged", "spec_bench:category=rag", 90, 3),
        replace(timed("broken", "spec_bench:category=qa", 1, 1), error="no", costs={}, scores={}),
    ]  # fmt: skip
    title, columns = shown(records)
    assert title == "All tasks: decoding (tokens per second)"
    assert columns == {
        "qa": ["10.0", "20.0 ×2.00", ""],
        "rag": ["30.0", "30.0 ×1.00", ""],
        "all": ["25.0", "28.6 ×1.14", ""],  # 100 tokens in 4 and in 3.5 seconds: long answers weigh more
    }


def test_names_tell_specs_apart() -> None:
    assert short_names(["a:x=1,y=2", "a:x=1,y=3", "b:z=4"]) == {"a:x=1,y=2": "2", "a:x=1,y=3": "3", "b:z=4": "b"}
    names = short_names(["a", "a:x=1", "a:x=1,y=2"])
    assert list(names.values()) == ["a", "a x=1", "a x=1 y=2"]
