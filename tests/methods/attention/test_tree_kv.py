"""TreeKV against its formula, one eviction at a time, the shape of its tree, and its effect on a real model."""

from __future__ import annotations

import pytest
import torch

from tests.attention.evicting import Head, check_dense, check_steps, check_trees
from tests.attention.test_attend import some_tokens
from tokloom import Engine, Sampling
from tokloom.engine.forward import new_store, prefill
from tokloom.errors import SpecError
from tokloom.methods.attention.tree_kv import TreeKV
from tokloom.models.language_model import LanguageModel

POLICY = TreeKV(budget=24, interval=4, sink=3, recent=0.4)  # 20 slots: 3 sinks, 9 in the tree, 8 recent


def by_formula(heads: list[Head]) -> None:
    for head in heads:
        waiting = head.positions[20:]
        held = head.positions[:20]
        cursor = (head.seen - len(head.positions)) % 9  # evictions so far

        def average(position: int, head: Head = head) -> float:
            return sum(weight for _, weight in head.drawn[position]) / (head.seen - position)

        while waiting:
            group, waiting = waiting[:4], waiting[4:]
            held += group
            for _ in group:
                left, right = held[3 + cursor], held[3 + cursor + 1]
                held.remove(right if average(left) > average(right) else left)
                cursor = (cursor + 1) % 9
        head.keep(held)


@pytest.mark.parametrize("chunks", [(40,), (9, 1, 25)])
def test_steps_equal_the_formula(tiny_llama: LanguageModel, chunks: tuple[int, ...]) -> None:
    check_steps(tiny_llama, POLICY, some_tokens(tiny_llama, 66), chunks, by_formula)


def test_a_tree_of_drafts_is_lossless(tiny_llama: LanguageModel) -> None:
    check_trees(tiny_llama, POLICY, some_tokens(tiny_llama, 60), 30)


@pytest.mark.parametrize("chunk", [7, 64])
def test_full_budget_is_dense(tiny_llama: LanguageModel, chunk: int) -> None:
    check_dense(tiny_llama, TreeKV(budget=256), some_tokens(tiny_llama, 40), chunk)


@pytest.mark.parametrize("by_attention", [True, False])
@pytest.mark.parametrize("chunk", [16, 220])
def test_density_falls_with_distance(tiny_llama: LanguageModel, by_attention: bool, chunk: int) -> None:
    """Thirds of the thinned-out text from far to near hold more and more slots, in every KV head."""
    policy = TreeKV(budget=80, interval=4, sink=4, recent=0.25, by_attention=by_attention)
    store = new_store(tiny_llama, policy, 0)
    for _ in prefill(tiny_llama, store, some_tokens(tiny_llama, 220), chunk):
        pass
    for layer in store.layers:
        middle = layer.positions[0, :, 4:-19]
        thirds = torch.stack([((middle - 4) * 3 // 197 == i).sum(-1) for i in range(3)])
        assert thirds[0].min() > 0
        assert (thirds[1:] > thirds[:-1]).all()


def test_the_tree_must_have_room() -> None:
    with pytest.raises(SpecError, match=r"tree_kv:recent=1\.0"):
        TreeKV(budget=64, recent=1.0)


@pytest.mark.model
def test_effect_perplexity_below_position_only_eviction(smollm2: LanguageModel, alice: str) -> None:
    """An eighth of the slots of a book's passage: its continuation is predicted better than from sinks and as many
    recent tokens (measured: 2.76 nats and 2.91)."""
    loss = []
    for spec in ("tree_kv:budget=64", "streaming_llm:budget=64"):
        engine = Engine(smollm2, attention=spec, prefill_chunk=256)
        score = engine.score(alice[60000:62000], alice[62000:62200])
        loss.append(-sum(score.logprobs) / len(score.logprobs))
        assert score.ledger.row("attention").counts["held"] <= 64
    assert loss[0] < loss[1] - 0.03


@pytest.mark.model
def test_with_token_recycling_the_text_stays_the_same(smollm2: LanguageModel, alice: str) -> None:
    prompt, sampling = alice[20000:21000], Sampling(max_new_tokens=32)
    plain = Engine(smollm2, attention="tree_kv:budget=96").generate(prompt, sampling=sampling)
    drafted = Engine(smollm2, attention="tree_kv:budget=96", drafter="token_recycling").generate(
        prompt, sampling=sampling
    )
    assert drafted.tokens == plain.tokens
