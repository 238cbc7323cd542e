"""The task of threads: its pairs, its answer, which digits count."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom import Engine
from tokloom.errors import ArgumentError, BudgetError, SpecError
from tokloom.methods.evaluate.needle_threads import NeedleThreads
from tokloom.models.language_model import LanguageModel

FAKE: Any = FakeModel()


@settings(max_examples=8, deadline=None)
@hypothesis.example(5, 3, "random", True, 350)
@given(
    st.integers(1, 5), st.integers(1, 3), st.sampled_from(["random", "forward", "backward"]), st.booleans(),
    st.integers(350, 600),
)  # fmt: skip
def test_threads_can_be_followed(hops: int, threads: int, direction: Any, steps: bool, length: int) -> None:
    task = NeedleThreads(length=length, hops=hops, threads=threads, direction=direction, steps=steps, repeats=1)
    for example in task.examples(FAKE):
        assert example.prompt is not None
        assert length - 15 <= FAKE.count(example.prompt) <= length
        pairs = re.findall(r'^"(\d+)": "(\d+)",$', example.prompt, re.M)
        assert len(pairs) == example.meta["pairs"] == len(dict(pairs))
        order = [key for key, _ in pairs]
        starts = re.findall(r'key "(\d+)"', example.prompt)
        assert len(starts) == threads
        expected = []
        for key in starts:
            places = []
            for _ in range(hops):
                places.append(order.index(key))
                expected.append((key, dict(pairs)[key]))
                key = dict(pairs)[key]
            assert key not in order  # the thread ends there
            if direction != "random":
                assert places == sorted(places, reverse=direction == "backward")
        answer = example.answers[0]
        if steps:
            assert re.findall(r'"(\d+)": "(\d+)"', answer) == expected
        else:
            assert re.findall(r"\d+", answer) == [value for _, value in expected[hops - 1 :: hops]]


def test_only_digits_of_values_are_scored() -> None:
    """Keys repeat the value before them: they say nothing."""
    task = NeedleThreads(length=300, hops=2, threads=2)
    example = next(task.examples(FAKE))

    class OnlyFirstThread(FakeEngine):
        def score(self, prompt, continuation, watch=None):  # type: ignore[no-untyped-def]
            scored = super().score(prompt, continuation)
            texts = [FAKE.decode([token]) for token in scored.tokens]
            half = len(texts) // 2
            scored.ranks = tuple(0 if text.isdigit() and i < half else 9 for i, text in enumerate(texts))
            scored.logprobs = tuple(-1.0 if i < half else -3.0 for i in range(len(texts)))
            return scored

    engine: Any = OnlyFirstThread(FAKE)
    assert task.run(engine, example).scores == {"digit_accuracy": 0.5, "thread_accuracy": 0.5, "nll": 2.0}


def test_same_seed_same_examples() -> None:
    def prompts(seed: int) -> list[str | None]:
        return [example.prompt for example in NeedleThreads(length=300, repeats=2, seed=seed).examples(FAKE)]

    assert prompts(1) == prompts(1)
    assert prompts(1) != prompts(2)


def test_errors() -> None:
    with pytest.raises(BudgetError, match=r"needle_threads:length=40 .*at least"):
        list(NeedleThreads(length=40).examples(FAKE))
    with pytest.raises(ArgumentError, match=r"needle_threads:length=4090"):
        list(NeedleThreads(length=4090).examples(FAKE))
    with pytest.raises(SpecError, match="needle_threads:digits"):
        NeedleThreads(hops=20, digits=2)
    with pytest.raises(SpecError, match="needle_threads:direction"):
        NeedleThreads(direction="up")  # type: ignore[arg-type]


@pytest.mark.model
def test_on_a_real_model(smollm2: LanguageModel) -> None:
    """Written out, a thread can be looked up; without the pairs it can't."""
    task = NeedleThreads(length=320, hops=3, repeats=3)
    engine = Engine(smollm2)
    found = blind = 0.0
    for example in task.examples(smollm2):
        found += task.run(engine, example).scores["digit_accuracy"] / 3
        assert example.prompt is not None
        start, _, rest = example.prompt.partition("{\n")
        bare = start + rest[rest.index("\n}") :]
        blind += engine_score(task, engine, example, bare) / 3
    assert found > blind + 0.3


def engine_score(task: NeedleThreads, engine: Engine, example: Any, prompt: str) -> float:
    import dataclasses

    return task.run(engine, dataclasses.replace(example, prompt=prompt)).scores["digit_accuracy"]
