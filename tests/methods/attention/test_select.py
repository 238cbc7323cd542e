"""Selection by exact scores against the formula written out slot by slot."""

from __future__ import annotations

import pytest
import torch

from tests.attention.selecting import best, check, grouped, prompt_read, votes
from tests.attention.test_attend import reference_logits, some_tokens
from tokloom.engine.forward import new_store, prefill
from tokloom.kv.store import Step
from tokloom.methods.attention.select import Select
from tokloom.models.language_model import LanguageModel

POLICY = {"budget": 24, "sink": 3, "local": 6}
LEFT = 15


def exact(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
    """Per KV head the tokens with the largest sum of the group's softmaxes."""
    return [set(best(votes(q, k, candidates, 0.25), LEFT)) for q, k in grouped(queries, keys)]


def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel) -> None:
    check(tiny_llama, Select(**POLICY), exact)


def test_dense_layers_attend_to_everything(tiny_llama: LanguageModel) -> None:
    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        return [set(candidates)] * 2 if layer < 2 else exact(layer, queries, keys, candidates)

    check(tiny_llama, Select(**POLICY, dense_layers=2), chosen)


def test_neighbouring_rows_of_a_prompt_choose_together(tiny_llama: LanguageModel) -> None:
    """Twelve rows after 46, five by five, each five by their mean query, among the tokens before the first row."""
    policy = Select(budget=20, sink=3, local=6, prompt=True, prompt_rows=5, prompt_budget=23)
    layer = prompt_read(tiny_llama, policy, some_tokens(tiny_llama, 46)).layers[1]
    queries = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    layer.step = Step(tuple(range(46, 58)), tiny_llama.device, prompt=True)
    layer.slots.reserve(12)
    found = policy.select(layer, queries)
    assert found is not None
    keys, candidates = layer.keys[0, :, :46].repeat_interleave(2, 0), list(range(3, 41))
    always = {*range(3), *range(41, 46)}
    for first, last in ((0, 5), (5, 10), (10, 12)):
        mean = queries[0, :, first:last].mean(1)
        for head, (q, _) in enumerate(grouped(mean, mean)):
            expected = always | set(best(votes(q, keys[2 * head], candidates, 0.25), 23 - 3 - 6))
            for row in range(first, last):
                picked = found[0, head, row]
                assert set(picked[picked >= 0].tolist()) == expected


@pytest.mark.parametrize(
    ("budget", "prompt_budget", "past", "selects"),
    [(20, 0, 40, True), (20, 0, 39, False), (20, 23, 46, True), (20, 24, 46, False), (24, 0, 46, False)],
)
def test_a_prompt_selects_once_twice_as_many_have_been_read(
    tiny_llama: LanguageModel, budget: int, prompt_budget: int, past: int, selects: bool
) -> None:
    policy = Select(budget=budget, sink=3, local=6, prompt=True, prompt_budget=prompt_budget)
    layer = prompt_read(tiny_llama, policy, some_tokens(tiny_llama, past)).layers[1]
    layer.step = Step(tuple(range(past, past + 12)), tiny_llama.device, prompt=True)
    layer.slots.reserve(12)
    plan = policy.plan(layer)
    assert (plan is None) == selects
    assert plan is None or plan.dense
    found = policy.select(layer, torch.randn(1, 4, 12, 16))
    assert (found is not None) == selects
    if found is not None:
        assert (found >= 0).sum(-1).unique().tolist() == [max(budget, prompt_budget) - 1]  # and the row itself


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("chunk", [5, 64])
def test_full_budget_is_dense(tiny_llama: LanguageModel, chunk: int, prompt: bool) -> None:
    tokens = some_tokens(tiny_llama, 50)
    store = new_store(tiny_llama, Select(budget=200, prompt=prompt), 0)
    *_, (_, logits) = prefill(tiny_llama, store, tokens, chunk)
    tiny_llama.model.set_attn_implementation("sdpa")
    torch_logits = reference_logits(tiny_llama, tokens)[-1]
    assert (logits - torch_logits).abs().max() < 1e-3
