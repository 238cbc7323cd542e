"""EMS against its formula, slot by slot, with merging and ragged heads, and its effect on a real model."""

from __future__ import annotations

import pytest
import torch

from tests.attention.evicting import Head, check_dense, check_steps, check_trees
from tests.attention.test_attend import some_tokens
from tokloom import Engine, Sampling
from tokloom.engine.forward import new_store, prefill
from tokloom.errors import SpecError
from tokloom.methods.attention.ems import EMS
from tokloom.models.language_model import LanguageModel

# 20 slots a head, 5 of them sure; a low bar, so that random keys and values merge too.
OPTIONS = {"budget": 24, "interval": 4, "window": 5, "min_share": 0.25, "similar": 0.1, "mass": 0.7}


def alike(head: Head, i: int, j: int) -> float:
    k, v, other_k, other_v = head.keys[i], head.values[i], head.keys[j], head.values[j]
    return float((k @ other_k) * (v @ other_v) / (k.norm() * v.norm() * other_k.norm() * other_v.norm()))


def scores(head: Head, last_queries: range) -> dict[int, float]:
    held = head.positions
    far = {j: sum(w for _, w in head.drawn[j]) / (head.seen - j) for j in held}
    near = {j: sum(w for i, w in head.drawn[j] if i in last_queries) for j in held}
    return {j: max(each[j] * len(held) / sum(each.values()) for each in (far, near)) for j in held}


def relevant(score: dict[int, float]) -> list[int]:
    chosen, so_far = [], 0.0
    for j in sorted(score, key=lambda j: -score[j]):
        if so_far < OPTIONS["mass"] * sum(score.values()):
            chosen.append(j)
        so_far += score[j]
    return chosen


class Formula:
    """EMS on the lists of `Head`; heads of a layer differ in how much they keep, so what they hold is compared too."""

    def __init__(self, merge_keys: bool) -> None:
        self.merge_keys = merge_keys

    def __call__(self, heads: list[Head]) -> None:
        rows = heads[0].seen - max((end for end in [0, *heads[0].ends] if end < heads[0].seen), default=0)
        if heads[0].deciding:
            since = heads[0].seen - (heads[0].seen - 1) // 4 * 4
            first = max(heads[0].seen - since, heads[0].ends[-1])
            if first == heads[0].ends[-1]:  # the prompt's window counts until the first eviction after it
                first -= 5
        else:
            assert rows >= 5, "chunks of at least a window here"
            first = heads[0].seen - 5
        window = range(first, heads[0].seen)
        if sum(len(head.positions) for head in heads) <= 20 * len(heads):
            return
        rated = [scores(head, window) for head in heads]
        chosen = [relevant(score) for score in rated]
        demands = []
        for head, positions in zip(heads, chosen, strict=True):
            pairs = [alike(head, i, j) for i in positions for j in positions if i < j]
            redundancy = (len(positions) + 2 * sum(pairs)) / len(positions) ** 2
            demands.append(len(positions) * (1 - redundancy))
        exact = [15 * len(heads) * demand / sum(demands) for demand in demands]
        sizes = [5 + int(share) for share in exact]
        order = sorted(range(len(heads)), key=lambda h: int(exact[h]) - exact[h])
        for h in order[: 20 * len(heads) - sum(sizes)]:
            sizes[h] += 1
        for head, score, positions, size in zip(heads, rated, chosen, sizes, strict=True):
            newest = head.positions[-5:]
            others = sorted(head.positions[:-5], key=lambda j: -score[j])
            centres = sorted(others[: size - 5] + newest)
            members: dict[int, list[int]] = {c: [c] for c in centres}
            for j in positions:
                if j not in members:
                    nearest = max(centres, key=lambda c: alike(head, j, c))
                    if alike(head, j, nearest) >= OPTIONS["similar"]:
                        members[nearest].append(j)
            merged = {}
            for c, group in members.items():
                weights = torch.tensor([score[j] for j in group]) / sum(score[j] for j in group)
                value = sum(w * head.values[j] for w, j in zip(weights, group, strict=True))
                key = head.keys[c]
                if self.merge_keys:
                    unit = sum(w * head.keys[j] / head.keys[j].norm() for w, j in zip(weights, group, strict=True))
                    norm = sum(w * head.keys[j].norm() for w, j in zip(weights, group, strict=True))
                    key = unit / unit.norm() * norm
                merged[c] = key, value
            head.keep(centres)
            for c, (key, value) in merged.items():
                head.keys[c], head.values[c] = key, value


@pytest.mark.parametrize("merge_keys", [False, True])
@pytest.mark.parametrize("chunks", [(34,), (24, 6)])
def test_steps_equal_the_formula(tiny_llama: LanguageModel, chunks: tuple[int, ...], merge_keys: bool) -> None:
    check_steps(
        tiny_llama, EMS(**OPTIONS, merge_keys=merge_keys), some_tokens(tiny_llama, 52), chunks, Formula(merge_keys)
    )


def test_heads_hold_different_numbers_of_slots(tiny_llama: LanguageModel) -> None:
    """On average the budget, in memory that is not padded to the longest head."""
    store = new_store(tiny_llama, EMS(**OPTIONS), 0)
    for _ in prefill(tiny_llama, store, some_tokens(tiny_llama, 60), 64):
        pass
    assert any(layer.holes is not None for layer in store.layers)
    for layer in store.layers:
        held = (layer.positions >= 0).sum(-1)
        assert held.sum() == 20 * layer.kv_heads
        assert held.min() >= 5


def test_a_tree_is_lossless(tiny_llama: LanguageModel) -> None:
    check_trees(tiny_llama, EMS(**OPTIONS), some_tokens(tiny_llama, 50), 30)


@pytest.mark.parametrize("chunk", [7, 64])
def test_full_budget_is_dense(tiny_llama: LanguageModel, chunk: int) -> None:
    check_dense(tiny_llama, EMS(budget=256), some_tokens(tiny_llama, 40), chunk)


def test_the_window_must_fit_the_budget() -> None:
    with pytest.raises(SpecError, match="ems:window=17"):
        EMS(budget=20, interval=4, window=17)


@pytest.mark.model
def test_effect_better_than_h2o_at_a_small_budget(smollm2: LanguageModel, alice: str) -> None:
    loss = []
    for spec in ("ems:budget=128", "h2o:budget=128"):
        score = Engine(smollm2, attention=spec).score(alice[20000:24000], alice[24000:24300])
        loss.append(-sum(score.logprobs) / len(score.logprobs))
        assert score.ledger.row("attention").counts["held"] <= 128
    assert loss[0] < loss[1] - 0.05


@pytest.mark.model
def test_with_token_recycling_the_text_stays_the_same(smollm2: LanguageModel, alice: str) -> None:
    prompt, sampling = alice[20000:21000], Sampling(max_new_tokens=32)
    plain = Engine(smollm2, attention="ems:budget=96").generate(prompt, sampling=sampling)
    drafted = Engine(smollm2, attention="ems:budget=96", drafter="token_recycling").generate(prompt, sampling=sampling)
    assert drafted.tokens == plain.tokens
