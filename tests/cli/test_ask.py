"""`tokloom ask`: arguments, what reaches the engine, what is printed, and what is refused."""

from __future__ import annotations

import inspect
import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.fake_engine import FakeEngine, Run
from tokloom.cli.ask import ask, split_arguments
from tokloom.engine.request import Sampling
from tokloom.errors import UsageError

# --- arguments -------------------------------------------------------------------------------------------------------


def test_the_last_argument_is_the_question(book: Path) -> None:
    paths = [str(book), str(book.parent), "missing.txt"]
    assert split_arguments([*paths, "Who?"], None, piped=False) == (paths, "Who?")


def test_with_an_explicit_question_all_arguments_are_paths(book: Path) -> None:
    assert split_arguments([str(book), str(book)], "Who?", piped=False) == ([str(book), str(book)], "Who?")


def test_piped_stdin_stands_in_for_a_missing_path() -> None:
    assert split_arguments(["Who?"], None, piped=True) == (["-"], "Who?")
    assert split_arguments([], "Who?", piped=True) == (["-"], "Who?")
    assert split_arguments(["-", "Who?"], None, piped=False) == (["-"], "Who?")


@pytest.mark.parametrize(
    ("arguments", "question", "complaint"),
    [
        ([], None, "Give the documents and then the question"),
        (["Who is it?"], None, "The documents are missing"),
        ([], "Who?", "The documents are missing"),
        (["BOOK"], None, "The question is missing: the last argument"),
        (["BOOK", "BOOK"], None, "The question is missing"),
        (["-", "BOOK"], None, "The question is missing"),
        (["Who is it?", "BOOK"], None, 'Did you mean: tokloom ask BOOK "Who is it?"?'),
        (["BOOK", "  "], None, "The question is empty"),
        (["BOOK", ""], None, "The question is empty"),
        (["BOOK"], "", "The question is empty"),
        (["-", "-", "Who?"], None, "give - once only"),
        (["BOOK", "Who", "is", "Ishmael?"], None, "There is no file 'Who'; a question of several words goes in quotes"),
        (["x" * 5000], None, "The documents are missing"),
    ],
)
def test_missing_and_swapped_arguments_are_explained(
    book: Path, arguments: list[str], question: str | None, complaint: str
) -> None:
    given = [str(book) if argument == "BOOK" else argument for argument in arguments]
    with pytest.raises(UsageError) as caught:
        split_arguments(given, question, piped=False)
    assert complaint.replace("BOOK", str(book)) in str(caught.value)


def test_defaults_are_those_of_the_engine_and_of_sampling() -> None:
    from tokloom.engine.engine import Engine

    ours = {name: p.default for name, p in inspect.signature(ask).parameters.items()}
    theirs = inspect.signature(Engine).parameters
    for name in ("model", "attention", "rope", "drafter", "context", "dtype", "device", "weights", "kv"):
        assert ours[name] == theirs[name].default
    for name in ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"):
        assert ours[name] == getattr(Sampling(), name)


# --- what reaches the engine -----------------------------------------------------------------------------------------


def test_everything_reaches_the_engine(run: Run, engine: FakeEngine, book: Path) -> None:
    done = run(
        *(
            "ask",
            str(book),
            "Who?",
            "--model",
            "m",
            "--dtype",
            "bfloat16",
            "--device",
            "cpu",
            "--weights",
            "bf16",
            "--kv",
            "int8",
        ),
        *("--context", "context_bubble:budget=300", "--budget", "700", "--attention", "h2o:budget=64"),
        *("--rope", "giraffe:scale=2"),
        *("--drafter", "token_recycling", "--max-new-tokens", "9", "--temperature", "0.5", "--top-k", "4"),
        *("--top-p", "0.9", "--min-p", "0.1", "--seed", "3", "--stop", "END", "--stop", ".", "--choices", "yes, no"),
    )
    assert (done.code, done.err) == (0, "")
    assert engine.made == {
        "model": "m",
        "dtype": "bfloat16",
        "weights": "bf16",
        "kv": "int8",
        "device": "cpu",
        "context": "context_bubble:budget=700",
        "attention": "h2o:budget=64",
        "predictor": None,
        "rope": "giraffe:scale=2",
        "drafter": "token_recycling",
        "denoiser": None,
        "denoising_cache": None,
        "search": None,
        "verifier": None,
    }
    assert engine.asked["prompt"] == "Who?"
    assert [d.name for d in engine.asked["documents"]] == [str(book)]
    assert engine.asked["sampling"] == Sampling(9, 0.5, 4, 0.9, 0.1, 3, ("END", "."))
    assert engine.asked["constraint"].options == ("yes", "no")


def test_constraint_spec_reaches_the_engine_as_it_is(run: Run, engine: FakeEngine, book: Path) -> None:
    spec = 'choices:options=["a,b","c"]'
    assert run("ask", str(book), "Who?", "--constraint", spec).code == 0
    assert engine.asked["constraint"] == spec


def test_threads_are_set(run: Run, engine: FakeEngine, book: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert run("ask", str(book), "Who?", "--threads", "3").code == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_several_files_and_stdin(run: Run, engine: FakeEngine, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Ein Wal für Ahab.".encode())))
    assert run("ask", str(book), "-", "--question", "Who?").code == 0
    assert [d.text for d in engine.asked["documents"]] == [book.read_text(), "Ein Wal für Ahab."]


# --- what is printed -------------------------------------------------------------------------------------------------


def test_answer_passages_and_ledger_on_stdout(
    run: Run, engine: FakeEngine, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(book.parent)
    done = run("ask", "book.txt", "Who?")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "Ishmael [he]."
    assert "[1] book.txt, characters 0-12" in lines
    assert "prompt tokens 41,203 -> 912 (97.8% saved)" in done.out
    assert "same as passage 1" not in done.out
    assert "\x1b" not in done.out
    assert done.err == ""


def test_trace_says_why(run: Run, engine: FakeEngine, book: Path) -> None:
    out = run("ask", str(book), "Who?", "--trace").out
    assert "best match" in out
    assert "same as passage 1" in out


def test_quiet_prints_the_answer_only(run: Run, engine: FakeEngine, book: Path) -> None:
    assert run("ask", str(book), "Who?", "--quiet").out == "Ishmael [he].\n"


def test_json_is_the_result_and_the_question(run: Run, engine: FakeEngine, book: Path) -> None:
    done = run("ask", str(book), "Who?", "--json", "--trace")
    data = json.loads(done.out)
    assert next(iter(data)) == "question"
    assert data["question"] == "Who?"
    assert data["text"] == "Ishmael [he]."
    assert {"tokens", "prompt_tokens", "stop_reason", "components", "citations", "trace", "ledger"} <= set(data)
    assert data["citations"][0] == {
        "file": str(book), "start": 0, "end": 12, "section": "", "text": "Call me Ishm"
    }  # fmt: skip
    assert data["ledger"][0]["savings"][0]["with_"] == 912


def test_answer_that_was_cut_says_so(run: Run, engine: FakeEngine, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli import fake_engine

    whole = fake_engine.sample_result

    def cut(document: object) -> object:
        from dataclasses import replace

        return replace(whole(document), stop_reason="length")  # type: ignore[arg-type]

    monkeypatch.setattr(fake_engine, "sample_result", cut)
    assert "cut at --max-new-tokens" in run("ask", str(book), "Who?").out


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(run: Run, engine: FakeEngine, *arguments: str) -> str:
    """The complaint about a call that must not reach the engine."""
    done = run("ask", *arguments)
    assert (done.code, done.out, engine.made) == (2, "", {})
    assert done.err.startswith("tokloom: error: ")
    return done.err


def test_bad_files_are_refused_before_a_model_is_loaded(run: Run, engine: FakeEngine, tmp_path: Path) -> None:
    missing, empty, binary = tmp_path / "missing.txt", tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n")
    binary.write_bytes(bytes(range(256)) * 8)
    unreadable = tmp_path / "folder"
    unreadable.mkdir()
    for path in (missing, empty, binary, unreadable):
        assert str(path) in refused(run, engine, str(path), "Who?")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--temperature", "-1"), ("temperature=-1.0", "a number >= 0")),
        (("--max-new-tokens", "0"), ("max_new_tokens=0", "an integer >= 1")),
        (("--top-p", "2"), ("top_p=2.0", "(0, 1]")),
        (("--stop", ""), ("stop=('',)", "non-empty")),
        (("--budget", "few"), ("--budget='few'", "integer", "tokloom ask --help")),
        (("--threads", "0"), ("--threads='0'", "greater than or equal to 1")),
        (("--dtype", "float8"), ("--dtype='float8'", "float32, bfloat16, float16")),
        (("--choices", "a,,b"), ("--choices='a,,b'", "--choices yes,no")),
        (("--choices", "a", "--constraint", "choices"), ("--constraint='choices'", "--choices")),
        (("--attention", "h20"), ("'h20'", "Did you mean 'h2o'?")),
        (("--context", "context_buble"), ("Did you mean 'context_bubble'?",)),
        (("--drafter", "token_recycling:size"), ("spec=", "key=value")),
        (("--atention", "h2o"), ("--atention", "--attention")),
    ],
)
def test_bad_options_are_refused_with_what_is_valid(
    run: Run, engine: FakeEngine, book: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    complaint = refused(run, engine, str(book), "Who?", *options)
    for word in words:
        assert word in complaint


def test_interrupt_while_answering_leaves_nothing_behind(
    run: Run, engine: FakeEngine, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(book.parent)
    engine.failure = KeyboardInterrupt()
    done = run("ask", "book.txt", "Who?")
    assert done.code == 130
    assert done.out == "Ishmael"
    assert done.err == "\ntokloom: interrupted\n"
    assert [p.name for p in book.parent.iterdir()] == ["book.txt"]


def test_interrupt_prints_no_half_json(run: Run, engine: FakeEngine, book: Path) -> None:
    engine.failure = KeyboardInterrupt()
    assert run("ask", str(book), "Who?", "--json").out == ""
