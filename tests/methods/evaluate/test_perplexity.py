"""The perplexity task: its windows, and its scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom import Engine
from tokloom.errors import ArgumentError, DocumentError, SpecError
from tokloom.evaluate.haystack import SHIPPED
from tokloom.methods.evaluate.perplexity import Perplexity
from tokloom.models.language_model import LanguageModel

FAKE: Any = FakeModel()


def test_windows_are_pieces_of_the_text() -> None:
    text = " ".join(SHIPPED.read_text(encoding="utf-8").split())
    examples = list(Perplexity(prefix=100, length=20, windows=5).examples(FAKE))
    starts = []
    for example in examples:
        assert example.prompt is not None
        piece = example.prompt + example.answers[0]
        starts.append(text.index(piece))
        assert example.answers[0].startswith(" ")
        assert 90 <= FAKE.count(example.prompt) <= 100
        assert 10 <= FAKE.count(example.answers[0]) <= 30
    assert len(starts) == 5
    for i, start in enumerate(starts):
        assert start == pytest.approx(i * len(text) / 5, abs=20)


def test_a_short_text_has_fewer_windows(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("some words " * 100, encoding="utf-8")
    assert len(list(Perplexity(prefix=80, length=20, windows=4, path=str(path)).examples(FAKE))) == 3
    with pytest.raises(DocumentError, match="fewer than 520 tokens"):
        list(Perplexity(prefix=500, length=20, path=str(path)).examples(FAKE))
    with pytest.raises(DocumentError, match=r"perplexity:path"):
        list(Perplexity(path=str(tmp_path / "none.txt")).examples(FAKE))
    with pytest.raises(ArgumentError, match=r"perplexity:prefix.*4096"):
        list(Perplexity(prefix=4090).examples(FAKE))


@pytest.mark.parametrize("options", [{"prefix": 0}, {"length": 0}, {"windows": 0}])
def test_bad_options(options: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=f"perplexity:{next(iter(options))}"):
        Perplexity(**options)


def test_scores() -> None:
    task = Perplexity(prefix=50, length=10)
    example = next(task.examples(FAKE))
    engine: Any = FakeEngine(FAKE)
    assert task.run(engine, example).scores == {
        "logprob": pytest.approx(-0.5), "perplexity": pytest.approx(math.exp(0.5)), "top1": 1,
    }  # fmt: skip


@pytest.mark.model
def test_a_longer_prefix_helps(smollm2: LanguageModel) -> None:
    """And a policy that keeps a tenth of it loses against dense attention."""
    task = Perplexity(prefix=400, length=40, windows=2)
    scores: dict[str, float] = {}
    for policy in ("dense", "h2o:budget=40,interval=8"):
        engine = Engine(smollm2, attention=policy)
        outcomes = [task.run(engine, example) for example in task.examples(smollm2)]
        scores[policy] = sum(outcome.scores["logprob"] for outcome in outcomes) / len(outcomes)
        assert 380 < outcomes[0].result.prompt_tokens <= 400
    assert -4.0 < scores["dense"] < -2.0
    assert scores["h2o:budget=40,interval=8"] < scores["dense"] - 0.05
