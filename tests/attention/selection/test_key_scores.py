"""Scores by an int8 copy of the keys: those of the rounded keys; no copy where it would save nothing."""

from __future__ import annotations

import pytest
import torch

from tests.attention.selecting import best, check, in_int8, prompt_read, votes
from tests.attention.selection.test_scores import filled
from tests.attention.test_attend import some_tokens, step_at
from tests.methods.attention.test_select import LEFT, POLICY, exact
from tokloom.attention.selection.key_scores import copy_of_keys, scores_by
from tokloom.attention.selection.parts import best_slots
from tokloom.attention.selection.scores import Span
from tokloom.engine.forward import forward
from tokloom.methods.attention.misa import MISA
from tokloom.methods.attention.select import Select
from tokloom.methods.attention.token_select import TokenSelect
from tokloom.models.language_model import LanguageModel


def copied(keys: torch.Tensor) -> torch.Tensor:
    """Keys (heads, n, d) as the copy has them: without the mean of the first 32, in int8."""
    return in_int8(keys - keys[:, :32].mean(1, keepdim=True))


def of_rounded(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
    return exact(layer, queries, copied(keys), candidates)


def test_steps_and_trees_equal_the_formula_of_rounded_keys(tiny_llama: LanguageModel) -> None:
    check(tiny_llama, Select(**POLICY, index="int8"), of_rounded)


def test_one_choice_for_all_heads(tiny_llama: LanguageModel) -> None:
    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        scores = dict.fromkeys(candidates, 0.0)
        for h in range(len(queries)):
            for j, weight in votes(queries[h : h + 1], copied(keys)[h], candidates, 0.25).items():
                scores[j] += weight
        return [set(best(scores, LEFT))]

    check(tiny_llama, TokenSelect(**POLICY, similarity=2.0, prompt=False), chosen)
    check(tiny_llama, MISA(**POLICY, active=4), chosen)


@pytest.mark.parametrize("precision", [None, "bf16", "int8", "int4"])
def test_the_best_are_nearly_the_same(precision: str | None) -> None:
    layer = filled(2000, 2, 64, precision)
    queries = torch.randn(1, 6, 1, 64, generator=torch.Generator().manual_seed(0))
    span = Span(4, torch.tensor([1990], dtype=torch.int32), 1990)
    exact, copied = (best_slots(scores_by(layer, queries, span, source), 200) for source in ("keys", "int8"))
    for some, others in zip(exact[0, :, 0].tolist(), copied[0, :, 0].tolist(), strict=True):
        assert len(set(some) & set(others)) >= 195
    assert ("int8 keys" in layer.notes) == (precision in (None, "bf16"))


def test_the_copy_is_counted(tiny_llama: LanguageModel) -> None:
    tokens = some_tokens(tiny_llama, 50)
    plain, copied = (prompt_read(tiny_llama, Select(**POLICY, index=source), tokens) for source in ("keys", "int8"))
    for store in (plain, copied):
        forward(tiny_llama, store, [tokens[46]], step_at(tiny_llama, 46), all_logits=False)
    config = tiny_llama.model.config
    rows = config.num_hidden_layers * config.num_key_value_heads * 64  # room for 64 to begin with
    assert copied.bytes - plain.bytes == rows * (config.head_dim + 4)


def test_going_back_to_the_start_makes_the_copy_anew() -> None:
    layer = filled(100, 2, 16)
    span = Span(0, torch.tensor([100], dtype=torch.int32), 100)
    copy = copy_of_keys(layer, span, "int8")
    assert copy is not None
    expected = layer.keys - layer.keys[:, :, :32].mean(2, keepdim=True)
    torch.testing.assert_close(copy.entries.rows(), expected, atol=0.05, rtol=0)
    copy.rewind(60)
    assert copy.count == 60
    copy.rewind(31)
    assert copy.count == 0
    layer.slots.keys.mul_(-1)
    again = copy_of_keys(layer, span, "int8")
    assert again is copy
    torch.testing.assert_close(copy.entries.rows(), -expected, atol=0.05, rtol=0)
