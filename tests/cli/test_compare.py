"""`tokloom compare`: what reaches `compare.run.compare`, and what is printed and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake_engine import Run
from tokloom.compare import run as runner
from tokloom.compare.records import Record


def record(method: str, score: float | None) -> Record:
    return Record(
        model="fake", stage="context", method=method, label=method, budget=256, place="context", task="squad",
        metric="f1", example="1", digest="d", settings={}, versions={},
        scores={} if score is None else {"f1": score}, costs={"prompt_tokens": 100.0},
        error="out of luck" if score is None else None, time="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How `run.compare` was called; it returns `called["records"]`."""
    call: dict[str, Any] = {"records": [record("top_k", 0.25), record("truncate", 0.5)]}

    def compare(*arguments: Any, **options: Any) -> list[Record]:
        call.update(arguments=arguments, options=options)
        if "failure" in call:
            raise call["failure"]
        records: list[Record] = call["records"]
        return records

    monkeypatch.setattr(runner, "compare", compare)
    return call


def test_every_fixed_part_is_one_that_a_comparison_takes(run: Run, called: dict[str, Any], tmp_path: Path) -> None:
    parts = {
        "context": "top_k", "attention": "h2o", "predictor": "byte_level", "rope": "giraffe", "drafter": "merged",
        "kv": "int8", "offload": str(tmp_path),
    }  # fmt: skip
    done = run(
        *("compare", "context", "--methods", "truncate", "--tasks", "squad"),
        *(word for name, value in parts.items() for word in (f"--{name}", value)),
    )
    assert (done.code, called["options"]["engine"]) == (0, parts)
    assert set(parts) <= set(runner.ENGINE_PARTS)


def test_everything_reaches_the_comparison(run: Run, called: dict[str, Any], tmp_path: Path) -> None:
    done = run(
        *("compare", "context", "--methods", "top_k:chunk=9,overlap=2,truncate", "--tasks", "squad,needle:length=512"),
        *(
            "--budgets",
            "128, 256",
            "--limit",
            "5",
            "--model",
            "m",
            "--dtype",
            "float32",
            "--device",
            "cpu",
            "--weights",
            "int8",
        ),
        *("--results", str(tmp_path / "r.jsonl"), "--attention", "h2o:budget=64"),
    )
    assert done.code == 0
    stage, methods, tasks, budgets, model, limit, results, progress = called["arguments"]
    assert (stage, methods) == ("context", ["top_k:chunk=9,overlap=2", "truncate"])
    assert (tasks, budgets, model, limit) == (["squad", "needle:length=512"], [128, 256], "m", 5)
    assert results == tmp_path / "r.jsonl"
    progress(1, 2, "squad  top_k")  # lines, for stderr is no terminal
    assert called["options"] == {
        "engine": {"attention": "h2o:budget=64"},
        "dtype": "float32",
        "device": "cpu",
        "weights": "int8",
    }
    assert "top_k" in done.out
    assert "0.250" in done.out
    assert done.err == f"2 answers in {tmp_path / 'r.jsonl'}\n"


def test_defaults(run: Run, called: dict[str, Any]) -> None:
    run("compare", "context", "--methods", "top_k", "--tasks", "squad")
    assert called["arguments"][3:7] == (None, "smollm2-135m", None, Path("out/compare/context.jsonl"))
    assert called["options"] == {"engine": {}, "dtype": None, "device": None, "weights": None}


def test_plain_decoding_is_a_method(run: Run, called: dict[str, Any]) -> None:
    assert run("compare", "decode", "--methods", "plain,token_recycling", "--tasks", "squad").code == 0
    assert called["arguments"][1] == ["plain", "token_recycling"]


def test_report_is_written_with_the_command(run: Run, called: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    done = run("compare", "context", "--methods", "top_k", "--tasks", "squad", "--limit", "2", "--report", str(page))
    assert done.code == 0
    assert f"report in {page}" in done.err
    assert "tokloom compare context --methods top_k --tasks squad --limit 2 --model smollm2-135m" in page.read_text(
        encoding="utf-8"
    )


def test_nothing_answered_is_a_failure(run: Run, called: dict[str, Any]) -> None:
    called["records"] = [record("top_k", None)]
    done = run("compare", "context", "--methods", "top_k", "--tasks", "squad")
    assert done.code == 1
    assert "out of luck" in done.out


def test_interrupt_tells_how_to_resume(run: Run, called: dict[str, Any]) -> None:
    called["failure"] = runner.ComparisonInterrupted(Path("r.jsonl"), 3, 9)
    done = run("compare", "context", "--methods", "top_k", "--tasks", "squad")
    assert done.code == 130
    assert "Stopped after 3 of 9 answers. They are kept in r.jsonl" in done.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--methods": "top_kk"}, ("'top_kk'", "Did you mean 'top_k'")),
        ({"--tasks": "squadd"}, ("Did you mean 'squad'",)),
        ({"--methods": "top_k,,x"}, ("specs='top_k,,x'",)),
        ({"--budgets": "1,many"}, ("--budgets='1,many'", "128,256,512")),
        ({"--limit": "0"}, ("--limit='0'", "1")),
        ({"--dtype": "int4"}, ("--dtype='int4'", "bfloat16")),
        ({"--attention": "h20"}, ("Did you mean 'h2o'?",)),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    run: Run, called: dict[str, Any], changes: dict[str, str], words: tuple[str, ...]
) -> None:
    options = {"--methods": "top_k", "--tasks": "squad", **changes}
    done = run("compare", "context", *(word for pair in options.items() for word in pair))
    assert (done.code, done.out) == (2, "")
    assert "arguments" not in called
    for word in words:
        assert word in done.err


def test_unknown_stage_is_refused_and_leaves_no_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("compare", "contxt", "--methods", "top_k", "--tasks", "squad")
    assert done.code == 2
    assert "Did you mean 'context'" in done.err
    assert list(tmp_path.iterdir()) == []


def test_attention_as_a_whole(run: Run, called: dict[str, Any]) -> None:
    """Without further options: all methods, at two budgets, on tasks that exist and whose options are right."""
    from tokloom import registry
    from tokloom.evaluate.task import Task

    assert run("compare", "attention").code == 0
    _, methods, tasks, budgets, *_ = called["arguments"]
    assert (methods, budgets) == (["all"], [256, 128])
    assert len({registry.spec_of(registry.build(task, Task, "tasks")) for task in tasks}) == len(tasks) > 5
    assert run("compare", "attention", "--methods", "h2o", "--tasks", "needle").code == 0
    assert called["arguments"][1:4] == (["h2o"], ["needle"], None)
    assert run("compare", "context").code == 2
