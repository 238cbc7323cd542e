"""The command line over real engines: a tiny model's directory in this process, the default model in its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake_engine import Outcome, Run
from tokloom.models.language_model import LanguageModel

TEXT = "\n\n".join(
    f"Part {i}: one two three four five six seven. The number of part {i} is {i * 37}." for i in range(40)
)


@pytest.fixture(scope="module")
def model(tiny_chat_llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory that `tokloom.load` takes."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_chat_llama.model.save_pretrained(folder)
    tiny_chat_llama.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def ask(run: Run, model: str, book: Path) -> Run:
    """`tokloom ask BOOK QUESTION --model TINY --context truncate --max-new-tokens 8 OPTIONS...`"""
    book.write_text(TEXT, encoding="utf-8")

    def call(*options: str, question: str = "What is the number of part 3?") -> Outcome:
        fixed = ("--model", model, "--context", "truncate", "--max-new-tokens", "8")
        return run("ask", str(book), question, *fixed, *options)

    return call


@pytest.mark.parametrize(
    "options", [(), ("--attention", "h2o:budget=64,interval=8"), ("--drafter", "token_recycling")], ids=str
)
def test_ask_counts_what_it_did(ask: Run, book: Path, options: tuple[str, ...]) -> None:
    done = ask("--budget", "400", "--json", *options)
    assert (done.code, done.err) == (0, "")
    data: dict[str, Any] = json.loads(done.out)
    rows = {row["stage"]: row for row in data["ledger"]}
    assert data["prompt_tokens"] == rows["attention"]["tokens_in"] <= 400
    assert len(data["tokens"]) == rows["decode"]["tokens_out"] <= 8
    assert rows["context"]["tokens_in"] > 1000 > rows["context"]["tokens_out"] > 0
    assert (
        rows["attention"]["counts"]["held"] + rows["attention"]["counts"]["evicted"]
        == (rows["attention"]["counts"]["seen"])
    )
    assert rows["attention"]["kv_bytes"] > 0
    for cited in data["citations"]:
        assert TEXT[cited["start"] : cited["end"]] == cited["text"]
        assert cited["file"] == str(book)


def test_ask_prints_answer_passages_and_ledger(ask: Run, book: Path) -> None:
    done = ask("--budget", "300", "--trace")
    assert (done.code, done.err) == (0, "")
    # However the page's width breaks a long path.
    assert f"[1]{book}" in "".join(done.out.split())
    for word in ("Passages", "Why", "stage", "context", "attention", "decode", "total", "saved)"):
        assert word in done.out


def test_the_same_text_is_printed_whole_streamed_and_in_json(ask: Run) -> None:
    options = ("--budget", "300", "--temperature", "1", "--seed", "5")
    text = json.loads(ask(*options, "--json").out)["text"]
    assert ask(*options, "--quiet").out.removesuffix("\n") == text.removesuffix("\n")


def test_choices_are_the_answer(ask: Run, run: Run, model: str) -> None:
    assert ask("--budget", "300", "--choices", "one, two", "--quiet").out in ("one\n", "two\n")
    spec = 'choices:options=[" a,b"," c"]'
    done = run("generate", "The answer is", "--model", model, "--constraint", spec, "--quiet")
    assert done.out in (" a,b\n", " c\n")


@pytest.mark.parametrize(
    ("options", "question", "words"),
    [
        (("--budget", "40"), "Who?", ("budget=40", "at least")),
        (("--budget", "0"), "Who?", ("budget",)),
        (("--budget", "200"), "one two three " * 100, ("budget=200", "question")),
        (("--budget", "5000"), "Who?", ("budget=5000", "window")),
        (("--attention", "h2o:budget=x"), "Who?", ("h2o:budget='x'", "int")),
        (("--attention", "token_recycling"), "Who?", ("AttentionPolicy", "token_recycling is a Drafter")),
        (("--drafter", "token_recycling:sizze=1"), "Who?", ("token_recycling:sizze",)),
        (("--device", "abacus"), "Who?", ("abacus",)),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line_with_exit_code_2(
    ask: Run, options: tuple[str, ...], question: str, words: tuple[str, ...]
) -> None:
    done = ask(*options, question=question)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("tokloom: error: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_unknown_model_is_refused(run: Run) -> None:
    done = run("generate", "Hi", "--model", "smollm3-135m")
    assert (done.code, done.out) == (2, "")
    assert "smollm2-135m" in done.err


def test_generate_continues_and_chats(run: Run, model: str) -> None:
    raw = json.loads(run("generate", "one two three", "--model", model, "--max-new-tokens", "4", "--json").out)
    chat = json.loads(
        run("generate", "one two three", "--chat", "--model", model, "--max-new-tokens", "4", "--json").out
    )
    assert raw["prompt_tokens"] < chat["prompt_tokens"]
    assert len(raw["tokens"]) <= 4
    assert raw["citations"] == raw["trace"] == []


# --- the default model, as a user runs it ----------------------------------------------------------------------------


def tokloom(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokloom.cli.main", *arguments], capture_output=True, text=True, timeout=240, **options
    )


@pytest.mark.model
@pytest.mark.usefixtures("smollm2")  # converted once, not in the processes
def test_ask_alice(alice_path: Path) -> None:
    done = tokloom(
        *("ask", str(alice_path), "What did Alice find on the little glass table?"),
        *("--budget", "400", "--max-new-tokens", "24", "--json"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert any("golden key" in cited["text"] for cited in data["citations"])
    context = data["ledger"][0]
    assert context["savings"][0]["share"] > 0.95
    assert data["prompt_tokens"] <= 400


@pytest.mark.model
@pytest.mark.usefixtures("smollm2")
def test_interrupt_ends_at_once_and_quietly(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "tokloom.cli.main", "generate", "Once upon a time", "--max-new-tokens", "4000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # a shell's background job, which this test may be part of, hands down an ignored one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout is not None
    first = running.stdout.read(1)
    start = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, complaint = running.communicate(timeout=60)
    assert first
    assert running.returncode == 130
    assert complaint == "\ntokloom: interrupted\n"
    assert time.monotonic() - start < 30
    assert list(tmp_path.iterdir()) == []


def test_the_drafter_learns_into_a_file(ask: Run, tmp_path: Path) -> None:
    file = tmp_path / "learned"
    options = ("--budget", "300", "--quiet", "--drafter-state", str(file))
    first = ask(*options, "--drafter", "token_recycling")
    assert first.code == 0
    assert file.stat().st_size > 0
    assert ask(*options, "--drafter", "token_recycling") == first
    refused = ask(*options)
    assert refused.code == 2
    assert "--drafter" in refused.err
