"""A comparison runs every cell once, resumes, and says what could not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compare.conftest import Bench
from tests.compare.fakes import FakeModel
from tokloom.compare.records import Record, read
from tokloom.compare.report import render_report
from tokloom.compare.run import ComparisonInterrupted, compare
from tokloom.errors import ArgumentError, BudgetError, SpecError, UnknownNameError
from tokloom.models.language_model import LanguageModel

ROWS = ["dense", "h2o", "h2o:budget=128", "token_select:budget=512", "token_select:budget=128"]


def without_times(records: list[Record]) -> list[tuple[str, dict[str, float], dict[str, float], str | None]]:
    return [(record.cell, record.scores, record.costs, record.error) for record in records]


def test_every_cell_once(bench: Bench) -> None:
    told: list[tuple[int, int, str]] = []
    records = bench.run(progress=lambda *args: told.append(args))
    assert [(r.task.partition(":")[0], r.method) for r in records] == [
        *(("needle", row) for row in ROWS * 2), *(("squad", row) for row in ROWS * 2),
    ]  # fmt: skip
    assert sorted(read(bench.results), key=lambda r: r.cell) == sorted(records, key=lambda r: r.cell)
    assert len(bench.answered) == 20
    assert [(done, total) for done, total, _ in told] == [(i, 20) for i in range(21)]
    assert told[-1] == (20, 20, "done")
    one = records[0]
    assert (one.model, one.stage, one.metric, one.budget, one.error) == (
        "fake",
        "attention",
        "digit_accuracy",
        None,
        None,
    )
    assert set(one.versions) == {"tokloom", "torch", "transformers", "python"}
    assert {"dtype", "device", "threads"} <= set(one.settings)
    assert one.costs["kv_bytes"] == 102400
    assert one.time.endswith("+00:00")
    quality = {r.method: r.scores["digit_accuracy"] for r in records if r.task.startswith("needle")}
    assert quality == dict(zip(ROWS, [1, 0, 0, 1, 1], strict=True))


def test_methods_take_turns_within_an_example(bench: Bench) -> None:
    bench.run()
    order = [method for method, _ in bench.answered]
    groups = [order[i : i + 5] for i in range(0, 20, 5)]
    assert groups == [ROWS[i:] + ROWS[:i] for i in range(4)]
    assert all(len({prompt for _, prompt in bench.answered[i : i + 5]}) == 1 for i in range(0, 20, 5))


def test_warm_ups_are_not_counted(bench: Bench) -> None:
    """Each row answers once before it counts, once more when documents first come in."""
    records = bench.run()
    assert sorted(bench.warmed) == sorted(ROWS * 2)
    assert len(records) == 20


@pytest.mark.parametrize("stop", [0, 1, 7, 19])
def test_resumes_after_an_interruption(bench: Bench, stop: int) -> None:
    bench.stop_at = stop
    with pytest.raises(ComparisonInterrupted, match=rf"Stopped after {stop} of 20.*same command again to resume"):
        bench.run()
    assert len(list(read(bench.results))) == stop
    bench.stop_at = None
    resumed = bench.run()
    assert len(bench.answered) == len(set(bench.answered)) == 20
    whole = bench.run(results=bench.results.with_name("whole.jsonl"))
    assert without_times(resumed) == without_times(whole)


def test_an_interruption_is_a_keyboard_interrupt(bench: Bench) -> None:
    bench.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        bench.run()


def test_a_torn_line_is_run_again(bench: Bench) -> None:
    before = bench.run()
    content = bench.results.read_bytes()
    last = bench.answered[-1]
    bench.results.write_bytes(content[:-40])
    bench.answered.clear()
    assert without_times(bench.run()) == without_times(before)
    assert bench.answered == [last]
    assert len(bench.results.read_bytes()) == len(content)


def test_a_finished_comparison_answers_nothing(bench: Bench) -> None:
    before = bench.run()
    content = bench.results.read_bytes()
    bench.answered.clear()
    bench.warmed.clear()
    assert bench.run() == before
    assert not bench.answered
    assert not bench.warmed
    assert bench.results.read_bytes() == content


def test_a_higher_limit_adds(bench: Bench) -> None:
    few = bench.run(limit=1)
    assert len(few) == len(bench.answered) == 10
    assert len(bench.run()) == len(bench.answered) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"model": FakeModel("other")},
        {"model": FakeModel(dtype="torch.bfloat16")},
        {"engine": {"prefill_chunk": 64}},
        {"engine": {"drafter": "token_recycling"}},
        {"tasks": ["needle:length=200,repeats=1,depths=[0.2,0.8],seed=1", "squad:limit=2,max_new_tokens=31"]},
    ],
)
def test_other_settings_are_other_results(bench: Bench, change: dict[str, Any]) -> None:
    bench.run()
    assert len(bench.run(**change)) == 20
    assert len(bench.answered) == 40


def test_changed_data_are_other_results(bench: Bench) -> None:
    hay = bench.results.with_name("hay.txt")
    tasks = [f"needle:path={hay},length=200,repeats=1,depths=[0.5]"]
    for text in ("Grass grows.", "Grass withers."):
        hay.write_text(text)
        assert len(bench.run(tasks=tasks)) == 5
    assert len(bench.answered) == 10


def test_other_versions_are_other_results(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    monkeypatch.setattr("tokloom.__version__", "9.9")
    bench.run()
    assert len(bench.answered) == 40


def test_the_fixed_parts_are_recorded(bench: Bench) -> None:
    (record, *_) = bench.run(engine={"drafter": "token_recycling", "attention": "h2o"})
    assert record.settings["drafter"] == "token_recycling"
    assert "attention" not in record.settings  # it is what is compared
    (record, *_) = bench.run(engine={"rope": "giraffe:scale=2"})
    assert record.settings["rope"] == "giraffe:scale=2.0"


def test_a_method_that_cannot_run_is_a_row(bench: Bench) -> None:
    bench.broken = ("h2o",)
    records = bench.run()
    failed = [r for r in records if r.error is not None]
    assert [(r.method, r.task.partition(":")[0]) for r in failed] == [
        ("h2o", "needle"), ("h2o:budget=128", "needle"), ("h2o", "squad"), ("h2o:budget=128", "squad"),
    ]  # fmt: skip
    assert all(r.error == "h2o and fake can't be combined: nothing gives telepathy." and not r.scores for r in failed)
    assert len(records) == 12 + 4
    size = bench.results.stat().st_size
    bench.run()
    assert bench.results.stat().st_size == size  # the same error is told once
    bench.broken = ()
    assert all(r.error is None for r in bench.run())  # and tried again


def test_a_refused_budget_is_a_row(bench: Bench) -> None:
    records = bench.run(budgets=[32], tasks=["squad:limit=2"])
    assert [r.error is not None for r in records if r.label == "token_select"] == [True]


def test_an_example_that_fails(bench: Bench) -> None:
    def refuse(method: str) -> None:
        if method == "dense" and len(bench.answered) == 1:
            raise BudgetError("prompt", 9, "less")

    bench.on_answer = refuse
    records = bench.run(tasks=["squad:limit=2"], methods=["dense", "h2o"])
    assert [r.error for r in records if r.method == "dense"] == ["prompt=9 is not valid: expected less.", None]
    assert [r.error for r in records if r.method == "h2o"] == [None, None]


def test_a_bug_is_not_hidden(bench: Bench) -> None:
    def fail(method: str) -> None:
        if len(bench.answered) == 4:
            raise ZeroDivisionError

    bench.on_answer = fail
    with pytest.raises(ZeroDivisionError):
        bench.run()
    assert len(list(read(bench.results))) == 3


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"tasks": []}, ArgumentError, "tasks="),
        ({"tasks": "squad"}, ArgumentError, "tasks="),
        ({"tasks": ["squid"]}, UnknownNameError, "Did you mean 'squad'"),
        ({"tasks": ["dense"]}, SpecError, "dense is a AttentionPolicy"),
        ({"tasks": ["squad:limit=0"]}, SpecError, "squad:limit"),
        ({"tasks": ["needle:length=9999"]}, ArgumentError, "needle:length"),
        ({"limit": 0}, ArgumentError, "limit=0"),
        ({"limit": True}, ArgumentError, "limit=True"),
        ({"engine": {"brake": "x"}}, ArgumentError, "engine='brake'"),
        ({"engine": {"attention": "token_recycling"}}, SpecError, "attention"),
        ({"dtype": "float32"}, ArgumentError, "dtype"),
        ({"stage": "train"}, UnknownNameError, "stage"),
    ],
)
def test_wrong_calls_run_nothing(bench: Bench, change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        bench.run(**change)
    assert bench.answered == []


@pytest.mark.model
def test_on_a_real_model(smollm2: LanguageModel, tmp_path: Path) -> None:
    """Costs come from the engine's own ledger: h2o holds its budget, token_select holds all and attends to less,
    a drafter changes no answer, and a context method without documents is refused."""
    results = tmp_path / "results.jsonl"
    task = "needle:length=320,depths=[0.4],repeats=1"

    def run(stage: str, methods: list[str], budgets: list[int] | None = None) -> list[Record]:
        return compare(stage, methods, [task], budgets, smollm2, results=results, controls=False)

    dense, h2o, select = run("attention", ["dense", "h2o", "token_select"], [128])
    assert dense.scores["digit_accuracy"] == select.scores["digit_accuracy"] == 1
    assert dense.costs["held"] == select.costs["held"] > 250
    assert h2o.costs["held"] <= 128
    assert h2o.costs["kv_bytes"] < dense.costs["kv_bytes"]
    assert select.costs["attended"] < dense.costs["attended"] == dense.costs["attendable"]
    plain, drafted = run("decode", ["plain", "token_recycling"])
    assert plain.scores == drafted.scores
    assert plain.costs["forward_passes"] >= drafted.costs["forward_passes"] > 0
    (context,) = run("context", ["top_k"])
    assert "no documents" in str(context.error)
    before = results.read_bytes()
    assert run("attention", ["dense", "h2o", "token_select"], [128]) == [dense, h2o, select]
    assert results.read_bytes() == before
    assert "needle" in render_report([dense, h2o, select])


def test_controls_join_the_rows(bench: Bench) -> None:
    records = bench.run(controls=True, methods=["h2o"], budgets=[512], limit=1)
    methods = list(dict.fromkeys(record.method for record in records))
    assert methods == ["dense", "h2o", "streaming_llm"]
