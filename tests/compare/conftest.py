"""A comparison with an engine that answers by rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom.compare.placement import Contender
from tokloom.compare.records import Record
from tokloom.compare.run import compare
from tokloom.engine.request import Result
from tokloom.errors import CompositionError


class Bench:
    """`run` compares with fake engines; `answered` logs (row, prompt) of every generation but the warm-ups.

    dense sees everything, token_select everything from budget 128 on, h2o nothing; `stop_at` raises
    KeyboardInterrupt at that generation; methods in `broken` can't be combined with the model.
    """

    def __init__(self, folder: Path) -> None:
        self.model = FakeModel()
        self.results = folder / "results.jsonl"
        self.answered: list[tuple[str, str]] = []
        self.warmed: list[str] = []
        self.stop_at: int | None = None
        self.broken: tuple[str, ...] = ()
        self.on_answer: Callable[[str], None] = lambda method: None

    def engine_for(self, model: FakeModel, contender: Contender, others: dict[str, Any]) -> FakeEngine:
        if contender.label in self.broken:
            raise CompositionError(contender.label, model.name, "nothing gives telepathy")
        bench = self

        class Engine(FakeEngine):
            def generate(self, prompt: str, **kwargs: Any) -> Result:
                if prompt == "What jumps?":
                    bench.warmed.append(contender.spec)
                    return super().generate(prompt, **kwargs)
                if len(bench.answered) == bench.stop_at:
                    raise KeyboardInterrupt
                bench.answered.append((contender.spec, prompt))
                bench.on_answer(contender.spec)
                return super().generate(prompt, **kwargs)

        sees = contender.label == "dense" or (contender.label == "token_select" and (contender.budget or 0) >= 128)
        return Engine(model, sees=lambda prompt: sees, contender=contender)

    def run(self, **changes: Any) -> list[Record]:
        arguments: dict[str, Any] = {
            "stage": "attention",
            "controls": False,
            "methods": ["dense", "h2o", "token_select"],
            "tasks": ["needle:length=200,repeats=1,depths=[0.2,0.8]", "squad:limit=2"],
            "budgets": [512, 128],
            "model": self.model,
            "results": self.results,
        }
        return compare(**{**arguments, **changes})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr("tokloom.compare.run.engine_for", made.engine_for)
    return made
