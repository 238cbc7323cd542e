"""The edge: errors become one line and an exit code; no traceback without --debug."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

import tokloom
from tests.cli.fake_engine import FakeEngine, Run
from tokloom.errors import ModelError, ModelNotFoundError

MAIN = "import sys; from tokloom.cli.main import main; sys.exit(main())"


def test_version(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"tokloom {tokloom.__version__}\n")


def test_no_arguments_show_the_help(run: Run) -> None:
    assert run().out == run("--help").out
    for verb in ("ask", "generate", "methods", "compare"):
        assert verb in run("-h").out
        assert run(verb, "--help").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("askk",), ("'askk'", "tokloom --help")),
        (("methods", "--jsn"), ("--jsn", "--json", "tokloom methods --help")),
        (("methods", "a", "b"), ("b", "tokloom methods --help")),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("tokloom: error: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_of_an_option_given_twice_the_value_that_counts_is_shown(run: Run) -> None:
    done = run("generate", "Once", "--top-k", "3", "--max-new-tokens", "8", "--top-k", "x")
    assert done.code == 2
    assert "--top-k='x' is not valid" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "Once", "--drafter", "prompt_lookup", "--drafter-state", "FILE/state"),
        ("heatmap", "--out", "FILE/page.html"),
        ("compare", "attention", "--report", "FILE/page.html"),
    ],
)
def test_a_result_that_could_not_be_written_is_refused_before_anything_runs(
    run: Run, engine: FakeEngine, book: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*args: object, **options: object) -> NoReturn:
        pytest.fail("a model was loaded")

    monkeypatch.setitem(vars(tokloom), "load", loaded)
    monkeypatch.setattr("tokloom.models.load.load", loaded)
    done = run(*(argument.replace("FILE", str(book)) for argument in arguments))
    assert (done.code, done.out, engine.made) == (2, "", {})
    option = next(argument for argument in reversed(arguments) if argument.startswith("--"))
    assert f"{option}='{book}" in done.err
    assert "can be written to" in done.err


@pytest.mark.parametrize(
    ("failure", "code", "complaint"),
    [
        (ModelNotFoundError("There is no model 'x'."), 2, "There is no model 'x'."),
        (ModelError("The model broke [bold]now[/bold]."), 1, "The model broke [bold]now[/bold]."),
        (
            ZeroDivisionError("by zero"),
            1,
            "ZeroDivisionError: by zero (unexpected; run with --debug for the traceback)",
        ),
    ],
)
def test_errors_become_one_line_and_their_exit_code(
    run: Run, engine: FakeEngine, failure: Exception, code: int, complaint: str
) -> None:
    engine.failure = failure
    done = run("generate", "Once", "--json")
    assert (done.code, done.out) == (code, "")
    assert done.err == f"tokloom: error: {complaint}\n"


@pytest.mark.parametrize("arguments", [("--debug", "generate", "Once"), ("generate", "Once", "--debug")])
def test_debug_shows_the_traceback(run: Run, engine: FakeEngine, arguments: tuple[str, ...]) -> None:
    engine.failure = ZeroDivisionError("by zero")
    done = run(*arguments)
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err
    assert "fake_engine.py" in done.err


def test_interrupt_shows_its_message(run: Run, engine: FakeEngine) -> None:
    engine.failure = KeyboardInterrupt("Stopped after 3 of 9 answers.")
    done = run("generate", "Once", "--quiet")
    assert (done.code, done.err) == (130, "\ntokloom: Stopped after 3 of 9 answers.\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "methods"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_output_is_plain_in_a_pipe_and_needs_no_utf8(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "methods", "attention"], capture_output=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.decode("ascii").splitlines())
