"""`tokloom prepare` with a tiny model: what it makes is what the method then opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tokloom
from tokloom.cli.main import main
from tokloom.engine import engine
from tokloom.methods.decode._datastore import Datastore
from tokloom.models.language_model import LanguageModel


@pytest.fixture
def book(tmp_path: Path, alice: str) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(alice[2000:9000], encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_llama: LanguageModel) -> None:
    monkeypatch.setattr(engine, "load", lambda name, **options: tiny_llama)


def test_a_datastore_and_then_its_use(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_llama: LanguageModel
) -> None:
    spec = f"knn_lm:datastore={tmp_path / 'store'}"
    assert main(["prepare", spec, str(book), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["method"] == spec
    assert figures["keys"] == Datastore(tmp_path / "store").about.count
    assert tokloom.Engine(tiny_llama, predictor=spec).generate("one two").tokens
    assert main(["prepare", spec, str(book)]) == 0  # it is there
    assert f"keys: {figures['keys']}" in capsys.readouterr().out


def test_exit_heads(book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", f"s2d:exits={tmp_path / 'exits'},layers=[1,2],steps=1", str(book)]) == 0
    assert "agreement after 2 layers: " in capsys.readouterr().out
    assert (tmp_path / "exits").is_file()


def test_errors_are_a_line_and_two(book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "h2o", str(book)]) == 2
    assert "needs no preparation" in capsys.readouterr().err
    assert main(["prepare", "knn_ml:datastore=x", str(book)]) == 2
    assert "knn_lm" in capsys.readouterr().err
    assert main(["prepare", f"knn_lm:datastore={tmp_path / 'x'}", str(tmp_path / "none.txt")]) == 2
