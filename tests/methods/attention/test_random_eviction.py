"""Random eviction against its formula, and that what it keeps is a uniform sample."""

from __future__ import annotations

import pytest
import torch

from tests.attention.evicting import Head, check_dense, check_steps, check_trees
from tests.attention.test_attend import some_tokens
from tokloom.engine.forward import new_store, prefill
from tokloom.errors import SpecError
from tokloom.methods.attention.random_eviction import RandomEviction, priorities
from tokloom.models.language_model import LanguageModel

POLICY = RandomEviction(budget=20, interval=4, sink=3, recent=0.5, seed=5)


def by_formula(heads: list[Head]) -> None:
    for head in heads:
        held = head.positions
        if len(held) > 16:
            table = priorities(torch.arange(64).expand(1, len(heads), -1), 5, head.layer)[0, head.head]
            middle = sorted(held[3:-8], key=lambda j: -float(table[j]))
            head.keep(held[:3] + middle[:5] + held[-8:])


@pytest.mark.parametrize("chunks", [(30,), (9, 1, 20)])
def test_steps_equal_the_formula(tiny_llama: LanguageModel, chunks: tuple[int, ...]) -> None:
    check_steps(tiny_llama, POLICY, some_tokens(tiny_llama, 50), chunks, by_formula)


def test_a_tree_is_lossless(tiny_llama: LanguageModel) -> None:
    check_trees(tiny_llama, POLICY, some_tokens(tiny_llama, 50), 30)


def test_full_budget_is_dense(tiny_llama: LanguageModel) -> None:
    check_dense(tiny_llama, RandomEviction(budget=256), some_tokens(tiny_llama, 40), 7)


def test_priorities_are_uniform_and_independent() -> None:
    """Over 100,000 positions: means and correlations as of uniform draws, between heads, layers, seeds, neighbours."""
    positions = torch.arange(100_000).expand(1, 2, -1)
    drawn = [priorities(positions, seed, layer)[0, head] for seed, layer, head in
             [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]]  # fmt: skip
    drawn.append(drawn[0].roll(1))
    for each in drawn:
        assert each.min() >= 0
        assert each.max() < 1
        assert abs(float(each.mean()) - 0.5) < 0.005
        assert abs(float(each.var()) - 1 / 12) < 0.002
    assert (torch.corrcoef(torch.stack(drawn)) - torch.eye(5)).abs().max() < 0.02


def test_the_sample_is_spread_over_the_whole_text(tiny_llama: LanguageModel) -> None:
    """However many evictions there were: the kept old positions have the mean of the text's."""
    means = []
    for seed in range(4):
        store = new_store(tiny_llama, RandomEviction(budget=100, interval=2, sink=0, recent=0.1, seed=seed), 0)
        for _ in prefill(tiny_llama, store, some_tokens(tiny_llama, 400), 20):
            pass
        means += [layer.positions[..., :-10].double().mean() for layer in store.layers]
    assert abs(float(torch.stack(means).mean()) - 195) < 10


def test_sinks_must_fit_the_budget() -> None:
    with pytest.raises(SpecError, match="random_eviction:sink=9"):
        RandomEviction(budget=20, interval=4, sink=9)
