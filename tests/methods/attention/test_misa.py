"""MISA against its formula: routed heads alone score; all heads are TokenSelect's vote."""

from __future__ import annotations

import pytest
import torch

from tests.attention.selecting import best, check, in_int8, votes
from tests.methods.attention.test_select import LEFT, POLICY
from tokloom.methods.attention.misa import MISA
from tokloom.models.language_model import LanguageModel


def routed(queries, keys, candidates, active: int, block: int) -> list[int]:  # type: ignore[no-untyped-def]
    """The heads of largest mean relu(q . mean key) over the full blocks before the local window."""
    energies = {}
    for h, q in enumerate(queries):
        blocks = range((candidates[-1] + 1) // block)
        raw = [float(q @ in_int8(keys[h, b * block : (b + 1) * block].mean(0))) for b in blocks]
        energies[h] = sum(max(0.0, r) for r in raw) / len(raw)
    return best(energies, active)


def vote(queries, keys, heads, candidates) -> dict[int, float]:  # type: ignore[no-untyped-def]
    total = dict.fromkeys(candidates, 0.0)
    for h in heads:
        for j, weight in votes(queries[h : h + 1], keys[h], candidates, 0.25).items():
            total[j] += weight
    return total


@pytest.mark.parametrize(("active", "enlarge"), [(1, 1.0), (2, 1.0), (2, 1.5), (4, 1.0)])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, active: int, enlarge: float) -> None:
    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        scores = vote(queries, keys, routed(queries, keys, candidates, active, 4), candidates)
        if enlarge > 1:
            scores = vote(queries, keys, range(4), best(scores, int(enlarge * LEFT + 0.5)))
        return [set(best(scores, LEFT))]

    check(tiny_llama, MISA(**POLICY, active=active, block=4, enlarge=enlarge, index="keys"), chosen)


def test_after_another_filter_each_kv_head_decides(tiny_llama: LanguageModel) -> None:
    """In blocks that HISA kept for each KV head, there is no set for all heads."""
    from tests.attention.selecting import prompt_read
    from tests.attention.test_attend import some_tokens, step_at
    from tokloom.engine.forward import forward
    from tokloom.methods.attention.hisa import HISA

    store = prompt_read(tiny_llama, HISA(**POLICY, block=4, host="misa:active=2"), some_tokens(tiny_llama, 46))
    assert torch.isfinite(forward(tiny_llama, store, [7], step_at(tiny_llama, 46), all_logits=True)).all()
