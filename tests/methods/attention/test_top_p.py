"""Top-p against its definition, alone and as the picker of others; dynamic budgets beside fixed ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attention.selecting import best, check, grouped, votes
from tests.attention.selection.test_scores import filled
from tests.methods.attention.test_select import LEFT, POLICY, exact
from tokloom.attention.selection.scores import Scores
from tokloom.methods.attention.top_p import Nucleus, TopP
from tokloom.models.language_model import LanguageModel


def fewest(scores: dict[int, float], mass: float, maximum: int) -> set[int]:
    """The fewest best whose shares add up to `mass`, one after the other."""
    chosen: set[int] = set()
    total = sum(scores.values())
    for j in best(scores, maximum):
        if sum(scores[i] for i in chosen) >= mass * total:
            break
        chosen.add(j)
    return chosen


@pytest.mark.parametrize("mass", [0.3, 0.6])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, mass: float) -> None:
    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        return [fewest(votes(q, k, candidates, 0.25), mass, LEFT) for q, k in grouped(queries, keys)]

    check(tiny_llama, TopP(**POLICY, mass=mass), chosen)


def test_all_of_the_mass_is_top_k(tiny_llama: LanguageModel) -> None:
    check(tiny_llama, TopP(**POLICY, mass=1.0), exact)


@given(
    values=st.lists(st.floats(-3, 3, width=32) | st.just(-math.inf), min_size=1, max_size=20),
    mass=st.floats(0.01, 0.99), budget=st.integers(1, 12), shares=st.booleans(),
)  # fmt: skip
def test_the_set_is_the_smallest_with_its_mass(values: list[float], mass: float, budget: int, shares: bool) -> None:
    if shares:
        values = torch.tensor([math.exp(v) if v > -math.inf else v for v in values]).tolist()
    scores = Scores(torch.tensor([[[values]]]), shares=shares)
    places = Nucleus(mass).pick(filled(1, 1, 4), scores, budget)
    chosen = [p for p in places.flatten().tolist() if p >= 0]
    weights = [v if shares else math.exp(v) for v in values]
    weights = [w if w > 0 else 0.0 for w in weights]
    total = sum(weights)
    ranked = sorted((w for w in weights if w > 0), reverse=True)
    assert len(chosen) == len(set(chosen)) <= budget
    assert sorted((weights[p] for p in chosen), reverse=True) == ranked[: len(chosen)]
    held = sum(weights[p] for p in chosen)
    assert held >= (mass - 1e-4) * total or len(chosen) == min(budget, len(ranked))
    if chosen:
        assert held - min(weights[p] for p in chosen) < (mass + 1e-4) * total


def test_what_is_always_taken_comes_first_and_counts_for_nothing() -> None:
    values = torch.tensor([[[[math.inf, 0.2, 0.7, 0.1]]]])
    places = Nucleus(0.5).pick(filled(1, 1, 4), Scores(values, shares=True), 4)
    assert places.flatten().tolist() == [0, 2]
    assert Nucleus(0.5).pick(filled(1, 1, 4), Scores(values, shares=True), 1).flatten().tolist() == [0]
