"""Selection by exact scores against the formula written out slot by slot."""

from __future__ import annotations

import pytest

from tests.attention.selecting import best, check, grouped, votes
from tests.attention.test_attend import reference_logits, some_tokens
from tokloom.attention.select import Select
from tokloom.engine.forward import new_store, prefill
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


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("chunk", [5, 64])
def test_full_budget_is_dense(tiny_llama: LanguageModel, chunk: int, prompt: bool) -> None:
    tokens = some_tokens(tiny_llama, 50)
    store = new_store(tiny_llama, Select(budget=200, prompt=prompt), 0)
    *_, (_, logits) = prefill(tiny_llama, store, tokens, chunk)
    tiny_llama.model.set_attn_implementation("sdpa")
    torch_logits = reference_logits(tiny_llama, tokens)[-1]
    assert (logits - torch_logits).abs().max() < 1e-3
