"""`tokloom generate`: raw prompts, chat messages and stdin."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.fake_engine import FakeEngine, Run
from tokloom.engine.request import Sampling


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_prompt_is_continued_as_it_is(run: Run, engine: FakeEngine) -> None:
    done = run("generate", "Once ", "--max-new-tokens", "5", "--attention", "h2o", "--choices", " a, b")
    assert done.code == 0
    assert engine.asked["prompt"] == "Once "
    assert "messages" not in engine.asked
    assert "documents" not in engine.asked
    assert engine.asked["sampling"] == Sampling(max_new_tokens=5)
    assert engine.asked["constraint"].options == (" a", " b")
    assert engine.made == {
        "model": "smollm2-135m", "dtype": None, "device": None, "weights": None, "kv": None, "attention": "h2o",
        "predictor": None,
        "rope": None, "drafter": None, "denoiser": None, "denoising_cache": None, "search": None, "verifier": None,
    }  # fmt: skip
    assert done.out.startswith("Ishmael [he].\n")
    assert "decode" in done.out


def test_chat_sends_a_message(run: Run, engine: FakeEngine) -> None:
    run("generate", "Hi", "--chat", "--choices", "a, b")
    assert engine.asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert "prompt" not in engine.asked
    assert engine.asked["constraint"].options == ("a", "b")


def test_a_system_message_implies_chat(run: Run, engine: FakeEngine) -> None:
    run("generate", "Hi", "--system", "Be brief.")
    assert engine.asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_stdin_is_the_prompt_less_its_last_line_break(
    run: Run, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    pipe(monkeypatch, "Große\nWale\n\n".encode())
    assert run("generate", *arguments).code == 0
    assert engine.asked["prompt"] == "Große\nWale\n"


@pytest.mark.parametrize(
    ("data", "complaint"), [(b"", "The prompt is missing"), (b"\n", "The prompt is missing"), (b"\xff", "UTF-8")]
)
def test_empty_and_binary_stdin_are_refused(
    run: Run, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, data: bytes, complaint: str
) -> None:
    pipe(monkeypatch, data)
    done = run("generate")
    assert (done.code, done.out, engine.made) == (2, "", {})
    assert complaint in done.err


def test_json_is_the_result(run: Run, engine: FakeEngine) -> None:
    data = json.loads(run("generate", "Once", "--json").out)
    assert data["text"] == "Ishmael [he]."
    assert [row["stage"] for row in data["ledger"]] == ["context", "attention", "decode"]


def test_quiet_prints_the_answer_only(run: Run, engine: FakeEngine) -> None:
    assert run("generate", "Once", "--quiet").out == "Ishmael [he].\n"


def test_schema_regex_and_grammar_become_constraints(run: Run, engine: FakeEngine, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "s.json", tmp_path / "g.gbnf"
    schema.write_text('{"type": "integer"}')
    grammar.write_text('root ::= "a"')
    for arguments, method in (
        (("--schema", str(schema)), "json_schema"),
        (("--regex", "[0-9]+"), "regex"),
        (("--grammar", str(grammar)), "grammar"),
    ):
        assert run("generate", "Hi", *arguments).code == 0
        assert engine.asked["constraint"].name == method


@pytest.mark.parametrize(
    ("arguments", "complaints"),
    [
        (("--schema", "a.json", "--regex", "x"), ("--schema='a.json'", "not given together with --regex")),
        (("--grammar", "a.gbnf", "--choices", "x"), ("--choices='x'", "--grammar")),
        (("--constraint", "choices", "--schema", "x"), ("--constraint='choices'", "--schema")),
        (("--schema", "no_such.json"), ("no_such.json", "No such file")),
        (("--regex", "a("), ("character 2",)),
        (("--grammar", "no_such.gbnf"), ("no_such.gbnf",)),
        (("--grammar", "grammar.txt"), ("grammar:syntax", ".txt")),
    ],
)
def test_wrong_constraints_cost_no_model(
    run: Run, engine: FakeEngine, arguments: tuple[str, ...], complaints: tuple[str, ...]
) -> None:
    done = run("generate", "Hi", *arguments)
    assert done.code == 2
    assert engine.made == {}
    for complaint in complaints:
        assert complaint in " ".join(done.err.split())


def test_offload_reaches_the_engine_and_is_looked_for(run: Run, engine: FakeEngine, tmp_path: Path) -> None:
    assert run("generate", "Once", "--offload", str(tmp_path)).code == 0
    assert engine.made["offload"] == tmp_path
    assert run("generate", "Once").code == 0
    assert "offload" not in engine.made
    for verb in (("generate", "Once"), ("ask", __file__, "Who?"), ("compare", "attention")):
        done = run(*verb, "--offload", str(tmp_path / "missing"))
        assert done.code == 2
        assert "--offload" in done.err
        assert "missing" in done.err
