"""`tokloom methods`: what it lists, what it shows, and that it imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.fake_engine import Run
from tokloom import registry


def test_lists_every_method_on_one_line_each(run: Run) -> None:
    done = run("methods")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()[2:]
    assert len(lines) == len(registry.cards())
    for line, card in zip(lines, registry.cards().values(), strict=True):
        stage, name, kind, paper, arxiv, summary = line.split(maxsplit=5)
        assert (stage, name, kind) == (card.stage, card.name, card.kind)
        assert paper == (f"P{card.paper}" if card.paper else "-")
        assert arxiv == (card.arxiv or "-")
        assert " ".join(card.summary.split()).startswith(summary.rstrip())


@pytest.mark.parametrize("stage", ["attention", "decode", "context"])
def test_lists_one_stage(run: Run, stage: str) -> None:
    lines = run("methods", stage).out.splitlines()[2:]
    assert [line.split()[1] for line in lines] == registry.names(stage)


def test_json_has_name_stage_paper_arxiv_title_and_options(run: Run) -> None:
    listed = json.loads(run("methods", "--json").out)
    assert [entry["name"] for entry in listed] == registry.names()
    h2o = next(entry for entry in listed if entry["name"] == "h2o")
    assert (h2o["stage"], h2o["paper"], h2o["arxiv"]) == ("attention", "P76", "2306.14048")
    assert h2o["title"].startswith("H_2O: Heavy-Hitter Oracle")
    assert {"name", "type", "default", "doc"} == set(h2o["options"][0])
    assert json.loads(run("methods", "h2o", "--json").out) == h2o


def test_shows_one_in_full(run: Run) -> None:
    out = run("methods", "h2o").out
    card = registry.card("h2o")
    words = " ".join(out.split())
    assert "P76" in words
    assert "arXiv:2306.14048" in words
    assert " ".join(card.sections["Formula"].split()) in words
    for option in card.options:
        assert option.name in words
        assert f"{option.type}, default {option.default}" in words
        assert option.doc in words


@pytest.mark.parametrize(("name", "near"), [("h2", "'h2o'"), ("attenton", "'attention'"), ("needel", "'needle'")])
def test_unknown_names_suggest_the_nearest(run: Run, name: str, near: str) -> None:
    done = run("methods", name)
    assert (done.code, done.out) == (2, "")
    assert near in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["methods", "h2o"], ["ask", "--help"], ["--version"]])
def test_imports_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys; from tokloom.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'numpy', 'faiss', 'matplotlib'} & set(sys.modules);"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
