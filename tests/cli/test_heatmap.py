"""`tokloom heatmap`: what reaches the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import tokloom
from tests.cli.fake_engine import Run
from tokloom import registry
from tokloom.models.language_model import LanguageModel


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, tiny_llama: LanguageModel) -> None:
    def load(*args: Any, **kwargs: Any) -> LanguageModel:
        return tiny_llama

    monkeypatch.setattr(tokloom, "load", load)


def test_a_hidden_number_by_default(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = run(
        "heatmap", "--methods", "token_select:sink=2,local=8", "--budget", "40", "--length", "300", "--out", str(path)
    )
    assert done.code == 0, done.err
    assert done.err == f"heat map in {path}\n"
    text = path.read_text(encoding="utf-8")
    assert "special magic number" in re.sub(r"</?i[^>]*>", "", text)
    for title in ("dense attention weighs", "token_select:budget=40,sink=2,local=8", "streaming_llm:budget=40"):
        assert f"{title}</h2>" in text


def test_every_method_of_the_stage_is_on_the_page(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    text = "one two three four " * 30
    done = run("heatmap", text, "--continuation", " five six", "--budget", "96", "--out", str(path))
    assert done.code == 0, done.err
    text = path.read_text(encoding="utf-8")
    for name in set(registry.names("attention")) - {"dense"}:
        assert re.search(rf"\b{name}\b", text), name
    assert "giraffe: it changes positions" in re.sub("<[^>]*>", "", text)


def test_a_text_of_ones_own(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    options = ("--methods", "streaming_llm", "--budget", "64", "--out", str(path))
    assert run("heatmap", "one two three", "--continuation", " four five", *options).code == 0
    assert "“four five”" in path.read_text(encoding="utf-8")
    assert run("heatmap", "one two three", "--max-new-tokens", "8", *options).code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--methods", "h20"), "Did you mean 'h2o'"),
        (("--continuation", "x"), "given together with a prompt"),
        (("--budget", "0"), "--budget='0'"),
    ],
)
def test_bad_arguments(run: Run, arguments: tuple[str, ...], word: str) -> None:
    done = run("heatmap", *arguments)
    assert done.code == 2
    assert word in done.err
