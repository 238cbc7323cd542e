"""The needle task: how its prompts are built, and how it scores."""

from __future__ import annotations

import dataclasses
import itertools
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
from tokloom.evaluate.needle import SHIPPED, Needle, hide, insertion, sentences
from tokloom.evaluate.stage import Example
from tokloom.models.language_model import LanguageModel

SENTENCE = st.lists(st.sampled_from(["ab", "c", "def", "g,", "7"]), min_size=1, max_size=6).map(" ".join)
HAY = st.lists(SENTENCE.map(lambda s: f"A {s}."), min_size=1, max_size=12)
NEEDLE = "The number is: 4711."


def test_sentences() -> None:
    assert sentences('He came. "Who?" she said.\nMr x went (so!) Away. 7 left.') == [
        "He came.", '"Who?" she said.', "Mr x went (so!)", "Away. 7 left.",
    ]  # fmt: skip
    text = SHIPPED.read_text(encoding="utf-8")
    assert " ".join(sentences(text)) == " ".join(text.split())


@given(st.lists(st.integers(1, 50), max_size=20), st.floats(0, 1))
def test_insertion_is_the_nearest_border(lengths: list[int], depth: float) -> None:
    at = insertion(lengths, depth)
    errors = [abs(sum(lengths[:i]) - depth * sum(lengths)) for i in range(len(lengths) + 1)]
    assert errors[at] == min(errors)


@given(HAY, st.integers(0, 11), st.floats(0, 1), st.integers(1, 120))
def test_hidden_text(hay: list[str], start: int, depth: float, length: int) -> None:
    """The needle once; sentences whole, in order, as many as fit; the depth within half a sentence of the wish."""
    count = FakeModel().count
    hidden = hide(NEEDLE, hay, start, depth, length, count)
    if hidden is None:
        assert count(NEEDLE) > length
        return
    text, reached = hidden
    assert count(text) <= length
    assert text.count(NEEDLE) == 1
    before, _, after = text.partition(NEEDLE)
    rest = " ".join((before + after).split())
    endless = (hay[(start + i) % len(hay)] for i in itertools.count())
    taken: list[str] = []
    while " ".join(taken) != rest:
        taken.append(next(endless))
        assert len(" ".join(taken)) <= len(rest)
    longest = max(count(" " + sentence) for sentence in hay)
    assert count(text) + longest >= length
    whole = sum(count(" " + sentence) for sentence in taken)
    assert abs(reached - depth) * whole <= longest / 2 + 1e-6
    assert reached * whole == pytest.approx(sum(count(" " + s) for s in sentences_of(before, taken)))


def sentences_of(before: str, taken: list[str]) -> list[str]:
    found: list[str] = []
    for sentence in taken:
        if len(" ".join([*found, sentence])) <= len(before.strip()):
            found.append(sentence)
    return found


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
