"""The threshold picker against its definition, and the number of tokens that follows the head."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.attention.selecting import best, check, grouped, votes
from tests.attention.selection.test_scores import filled
from tests.methods.attention.test_select import LEFT, POLICY
from tokloom.attention.selection.scores import Scores
from tokloom.methods.attention.threshold import AboveThreshold, Threshold
from tokloom.models.language_model import LanguageModel


@pytest.mark.parametrize(("share", "quantile"), [(0.05, 0.0), (0.0, 0.7), (0.04, 0.8)])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, share: float, quantile: float) -> None:
    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        sets = []
        for q, k in grouped(queries, keys):
            scores = votes(q, k, candidates, 0.25)
            maximum = min(LEFT, math.ceil((1 - quantile) * len(candidates)))
            sets.append({j for j in best(scores, maximum) if scores[j] / sum(scores.values()) >= share})
        return sets

    check(tiny_llama, Threshold(**POLICY, share=share, quantile=quantile), chosen)


@given(
    values=st.lists(st.floats(-3, 3, width=32) | st.just(-math.inf), min_size=1, max_size=20),
    share=st.sampled_from([0.0, 0.05, 0.2]), quantile=st.sampled_from([0.0, 0.25, 0.5]), budget=st.integers(1, 12),
)  # fmt: skip
def test_logits(values: list[float], share: float, quantile: float, budget: int) -> None:
    places = AboveThreshold(share, quantile).pick(filled(1, 1, 4), Scores(torch.tensor([[[values]]])), budget)
    candidates = [i for i, v in enumerate(values) if v > -math.inf]
    total = sum(math.exp(values[i]) for i in candidates)
    assume(all(abs(math.exp(values[i]) - share * total) > 1e-5 * total for i in candidates))  # either is right there
    ranked = sorted(candidates, key=lambda i: (-values[i], i))[: math.ceil((1 - quantile) * len(candidates))]
    expected = [i for i in ranked[:budget] if math.exp(values[i]) >= share * total]
    assert [p for p in places.flatten().tolist() if p >= 0] == expected


def test_pages_that_are_always_taken_stay() -> None:
    scores = Scores(torch.tensor([[[[0.9, 0.1, math.inf]]]]), shares=True)
    assert AboveThreshold(0.5, 0.0).pick(filled(1, 1, 4), scores, 3).flatten().tolist() == [2, 0]
