"""The needle task: how its prompts are built, and how it scores."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom import Engine
from tokloom.errors import ArgumentError, BudgetError, DocumentError, SpecError
from tokloom.evaluate.haystack import SHIPPED, sentences
from tokloom.evaluate.task import Example
from tokloom.methods.evaluate.needle import Needle
from tokloom.models.language_model import LanguageModel


@settings(max_examples=10, deadline=None)
@given(
    st.integers(120, 600), st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(2, 9), st.integers(0, 99),
    st.booleans(),
)  # fmt: skip
def test_prompts(length: int, depths: list[float], digits: int, seed: int, chat: bool) -> None:
    model: Any = FakeModel()
    needle = Needle(length=length, depths=tuple(depths), repeats=2, digits=digits, seed=seed, chat=chat)
    examples = list(needle.examples(model))
    assert len(examples) == 2 * len(depths) == len({example.key for example in examples})
    longest = max(model.count(" " + sentence) for sentence in sentences(SHIPPED.read_text(encoding="utf-8")))
    for example, depth in zip(examples, depths * 2, strict=True):
        assert example.prompt is not None
        (number,) = example.answers
        assert re.fullmatch(rf"[1-9]\d{{{digits - 1}}}", number)
        assert example.prompt.count(number) == 1
        size = len(model.encode_prompt(example.prompt, chat=chat))
        assert length - longest <= size <= length
        assert example.prompt.endswith(
            f"special magic number for {example.meta['key']} mentioned in the provided text is"
        )
        assert abs(float(example.meta["depth_reached"]) - depth) * size <= longest
        assert example.prompt.startswith("<user>") == chat
        assert ("<assistant>The special" in example.prompt) == chat


def examples(**options: object) -> list[Example]:
    model: Any = FakeModel()
    return list(Needle(**options).examples(model))  # type: ignore[arg-type]


def test_same_seed_same_examples() -> None:
    assert examples(seed=3) == examples(seed=3)
    assert examples(seed=3) != examples(seed=4)


def test_first_examples_cover_the_depths() -> None:
    assert [example.meta["depth"] for example in examples(depths=(0, 0.5, 1))][:6] == [0, 0.5, 1] * 2


def test_own_text(tmp_path: Path) -> None:
    path = tmp_path / "hay.txt"
    path.write_text("Grass grows 12 inches. Amber-anchor cows eat it.", encoding="utf-8")
    for example in examples(path=str(path), length=300, digits=2):
        assert example.prompt is not None
        assert example.prompt.count("cows eat it") > 5  # repeated until the length is reached
        assert example.answers[0] not in "12"
        assert example.meta["key"] != "amber-anchor"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"needle:length=4090.*at most 4080 tokens for fake.*window is 4096"):
        examples(length=4090)
    with pytest.raises(BudgetError, match=r"needle:length=40 .*at least"):
        examples(length=40)
    with pytest.raises(DocumentError, match=r"can't be read.*needle:path"):
        examples(path=str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DocumentError, match="holds no sentence"):
        examples(path=str(tmp_path / "empty.txt"))
    (tmp_path / "full.txt").write_text("Digits 123456789.")
    with pytest.raises(ArgumentError, match="needle:digits=1"):
        examples(path=str(tmp_path / "full.txt"), digits=1)


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"depths": ()}, {"depths": (1.5,)}, {"digits": 0}, {"repeats": 0}, {"chat": "maybe"}]
)
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=f"needle:{next(iter(options))}"):
        Needle(**options)  # type: ignore[arg-type]


def test_scores() -> None:
    model: Any = FakeModel()
    needle = Needle(length=200)
    example = next(needle.examples(model))
    number = example.answers[0]
    reading: Any = FakeEngine(model, answer=lambda prompt: f" {number}. Well.")
    right = needle.run(reading, example)
    assert right.scores == {"digit_accuracy": 1, "nll": pytest.approx(0.5), "recall": 1}
    blind: Any = FakeEngine(model, answer=lambda prompt: f" 9{number}", sees=lambda prompt: False)
    wrong = needle.run(blind, example)
    assert wrong.scores == {"digit_accuracy": 0, "nll": pytest.approx(3.0), "recall": 0}


def test_only_digits_are_scored() -> None:
    """A space of its own before the number is no part of it: ranks and probabilities come from the digits."""
    model: Any = FakeModel()
    example = next(Needle(length=200).examples(model))

    class Spaced(FakeEngine):
        def score(self, prompt, continuation):  # type: ignore[no-untyped-def]
            scored = super().score(prompt, continuation)
            assert model.decode(scored.tokens[:1]) == " "
            scored.ranks = (0, 0, 0, 5, 5)
            scored.logprobs = (-100.0, -1.0, -1.0, -2.0, -2.0)
            return scored

    engine: Any = Spaced(model)
    scores = Needle(length=200).run(engine, example).scores
    assert scores["digit_accuracy"] == 0.5
    assert math.isclose(scores["nll"], 1.5)


@pytest.mark.model
@pytest.mark.parametrize("chat", [False, True])
def test_on_a_real_model(smollm2: LanguageModel, chat: bool) -> None:
    """Dense attention reads the number; with the needle taken out of the prompt nothing knows it."""
    needle = Needle(length=320, depths=(0.4,), repeats=1, chat=chat)
    (example,) = needle.examples(smollm2)
    assert example.prompt is not None
    engine = Engine(smollm2)
    outcome = needle.run(engine, example)
    assert 250 < outcome.result.prompt_tokens <= 320
    assert outcome.scores["digit_accuracy"] == outcome.scores["recall"] == 1
    assert outcome.scores["nll"] < 0.5
    without = dataclasses.replace(example, prompt=example.prompt.replace(example.answers[0], "unknown"))
    blind = needle.run(engine, without).scores
    assert blind["digit_accuracy"] < 0.8
    assert blind["nll"] > 1.5
    assert blind["recall"] == 0


@pytest.mark.parametrize(("keys", "values", "queries"), [(4, 1, 1), (1, 3, 1), (4, 2, 3)])
def test_several_needles(keys: int, values: int, queries: int) -> None:
    for example in examples(length=500, keys=keys, values=values, queries=queries):
        assert example.prompt is not None
        assert len(example.answers) == queries * values
        found = re.findall(r"magic numbers for (\S+) is: (\d+)\.", example.prompt)
        assert len(found) == keys * values
        asked = re.split(r", and |, ", str(example.meta["key"]))
        assert len(asked) == queries
        numbers = [number for key, number in found if key in asked]
        assert sorted(numbers) == sorted(example.answers)
        assert len({number for _, number in found}) == len(found)
        assert example.prompt.endswith(" are" if queries * values > 1 else " is")


def test_several_numbers_are_scored_together() -> None:
    model: Any = FakeModel()
    needle = Needle(length=300, values=2)
    example = next(needle.examples(model))
    first, second = example.answers
    engine: Any = FakeEngine(model, answer=lambda prompt: f" {second} and more")
    assert needle.run(engine, example).scores == {"digit_accuracy": 1, "nll": pytest.approx(0.5), "recall": 0.5}
    bare = Needle(length=300, values=2, generate=False).run(engine, example)
    assert bare.scores == {"digit_accuracy": 1, "nll": pytest.approx(0.5)}
    assert first in example.answers


def test_more_queries_than_keys_are_refused() -> None:
    with pytest.raises(SpecError, match=r"needle:queries=2.*at most keys \(1\)"):
        Needle(queries=2)
