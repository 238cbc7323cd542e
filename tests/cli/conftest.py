"""The command line run in this process, with an engine that answers from a script."""

from __future__ import annotations

from pathlib import Path

import pytest

import tokloom
from tests.cli.fake_engine import FakeEngine, Outcome, Run
from tokloom.cli.main import main
from tokloom.context.selector import Document, Section


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tokloom ARGUMENTS...` through the entry point."""

    def call(*arguments: str) -> Outcome:
        code = main(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Stands for `tokloom.Engine`."""
    fake = FakeEngine()
    monkeypatch.setitem(vars(tokloom), "Engine", fake)
    return fake


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("Call me Ishmael. Some years ago, never mind how long precisely, I went to sea.\n")
    return path


@pytest.fixture
def document() -> Document:
    text = (
        "Call me Ishmael. Some years ago [never mind how long precisely] I thought I would sail about a little.\n" * 9
    )
    return Document("moby.txt", text, (Section("Loomings", 1, 0, 400),))
