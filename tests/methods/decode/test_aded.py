"""ADED's search against a naive twin that writes every score out."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, paths, propose
from tests.decode.fixed_source import FixedSource, FixedState
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.errors import SpecError
from tokloom.methods.decode.aded import ADED
from tokloom.models.language_model import LanguageModel


def naive(source: FixedSource, searches: int, depth: int, c1: float, c2: float) -> dict[tuple[int, ...], float]:
    """The paths that the search adds, with the product of their chances."""
    visits: dict[tuple[int, ...], int] = defaultdict(int)
    rewards: dict[tuple[int, ...], list[float]] = defaultdict(list)
    value: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(searches):
        path: tuple[int, ...] = ()
        while len(path) < depth:
            followers = source.followers(path)
            children = [(*path, token) for token in followers.tokens.tolist()]
            total = sum(visits[child] for child in children)
            explore = c1 + math.log((total + c2 + 1) / c2)
            scores = [
                (sum(rewards[child]) / len(rewards[child]) if rewards[child] else 0.0)
                + explore * probability * math.sqrt(total or 1) / (1 + visits[child])
                for child, probability in zip(children, followers.probabilities.tolist(), strict=True)
            ]
            best = max(range(len(children)), key=lambda i: scores[i])
            fresh = children[best] not in value
            value[children[best]] = value[path] * float(followers.probabilities[best])
            path = children[best]
            if fresh:
                break
        reward = sum(value[path[:n]] for n in range(1, len(path) + 1)) / len(path)
        for n in range(1, len(path) + 1):
            visits[path[:n]] += 1
            rewards[path[:n]].append(reward)
    del value[()]
    return value


def started(seed: int, **options: object):  # type: ignore[no-untyped-def]
    state = ADED(**options).start(FAKE)  # type: ignore[arg-type]
    state.source = FixedState(FixedSource(seed=seed))  # type: ignore[attr-defined]
    return state


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 5), st.floats(0, 2), st.floats(1, 100))
def test_the_search_is_that_of_the_formula(seed: int, searches: int, depth: int, c1: float, c2: float) -> None:
    tree = propose(started(seed, searches=searches, depth=depth, c1=c1, c2=c2), [1])
    expected = naive(FixedSource(seed=seed), searches, depth, c1, c2)
    found = dict(zip(paths(tree), tree.probabilities, strict=True))
    assert set(found) == set(expected)
    for path, probability in found.items():
        assert probability == pytest.approx(expected[path])


def test_more_exploration_is_broader() -> None:
    depths = {}
    for c1 in (0.05, 3.0):
        trees = [propose(started(seed, searches=24, c1=c1), [1]) for seed in range(20)]
        depths[c1] = sum(max(tree.depths()) for tree in trees)
    assert depths[3.0] < depths[0.05]


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(SpecError, match=r"aded:source=.*prompt_lookup is a Drafter"):
        ADED(source="prompt_lookup")


@pytest.mark.model
def test_effect_it_adapts_to_what_the_model_says(smollm2: LanguageModel) -> None:
    """Empty at first, the table drafts the second time what the model said the first time: two tokens a pass at least.
    The control is an engine that is new."""
    prompt, sampling = "The sea was calm and", Sampling(max_new_tokens=48)
    plain = Engine(smollm2).generate(prompt, sampling=sampling)
    engine = Engine(smollm2, drafter="aded")
    always_draft(engine)
    first, second = (engine.generate(prompt, sampling=sampling) for _ in range(2))
    assert first.tokens == second.tokens == plain.tokens
    passes = [result.ledger.row("decode").forward_passes for result in (first, second)]
    assert passes[1] <= len(plain.tokens) / 2
    assert passes[1] < passes[0]
