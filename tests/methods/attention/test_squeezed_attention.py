"""Squeezed Attention: the choice written out slowly, clusters made once, and a needle in a fixed context."""

from __future__ import annotations

import math

import pytest
import torch

from tests.attention.steps import check_trees, read
from tests.attention.test_attend import some_tokens, step_at
from tokloom import Engine
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import Step
from tokloom.methods.attention.squeezed_attention import SqueezedAttention, cluster
from tokloom.models.language_model import LanguageModel

POLICY = {"sparsity": 0.6, "coarse_sparsity": 0.3, "clusters": 0.4, "coarse_clusters": 0.15, "observed": 6}


def share(q: torch.Tensor, centres: torch.Tensor, sizes: list[int]) -> list[float]:
    """The score of each cluster by the paper's formula; 0 for empty ones."""
    raw = [math.exp(float(q @ centre) / math.sqrt(len(q))) for centre in centres]
    total = sum(n * r for n, r in zip(sizes, raw, strict=True))
    return [r / total if n else 0.0 for n, r in zip(sizes, raw, strict=True)]


def quantile(values: list[float], at: float) -> float:
    return sorted(values)[int(at * len(values))]


def test_the_choice_is_that_of_the_formula(tiny_llama: LanguageModel) -> None:
    policy = SqueezedAttention(**POLICY)
    tokens = some_tokens(tiny_llama, 46)
    store = read(tiny_llama, policy, tokens[:40], 11)
    context = 40 - POLICY["observed"]
    observed = {layer.index: layer.notes["clusters"] for layer in store.layers}
    # The last queries of the context, taken from a second reading that is not yet prepared.
    fresh = new_store(tiny_llama, policy, 0)
    for _ in prefill(tiny_llama, fresh, tokens[:40], 64):
        pass
    fine_scores: list[float] = []
    coarse_scores: list[float] = []
    parts = {}
    for layer in fresh.layers:
        queries = layer.notes["queries"][0]
        for head in range(2):
            keys = layer.keys[0, head, :context]
            made = observed[layer.index]
            labels, parents = made.labels[head].tolist(), made.parents[head].tolist()
            members = [[j for j in range(context) if labels[j] == c] for c in range(len(parents))]
            centres = torch.stack([keys[m].mean(0) if m else torch.zeros(16) for m in members])
            count = made.coarse.shape[1]
            above = [[j for j in range(context) if parents[labels[j]] == c] for c in range(count)]
            tops = torch.stack([keys[m].mean(0) if m else torch.zeros(16) for m in above])
            parts[layer.index, head] = (labels, parents, members, centres, above, tops)
            for q_head in (2 * head, 2 * head + 1):
                fine = torch.tensor([share(q, centres, [len(m) for m in members]) for q in queries[q_head]]).mean(0)
                coarse = torch.tensor([share(q, tops, [len(m) for m in above]) for q in queries[q_head]]).mean(0)
                fine_scores += [float(fine[c]) for c in labels]
                coarse_scores += [float(coarse[parents[c]]) for c in labels]
    threshold = quantile(fine_scores, POLICY["sparsity"])
    first = quantile(coarse_scores, POLICY["coarse_sparsity"])
    step = Step((40, 41), tiny_llama.device, parents=(-1, 0))
    for layer in store.layers:
        layer.step = step
        layer.slots.reserve(2)
        queries = torch.randn(1, 4, 2, 16, generator=torch.Generator().manual_seed(layer.index))
        found = policy.select(layer, queries)
        assert found is not None
        sizes = set()
        for head in range(2):
            labels, parents, members, centres, above, tops = parts[layer.index, head]
            for row in range(2):
                expected = set(range(context, 40))
                for q in queries[0, 2 * head : 2 * head + 2, row]:
                    coarse = share(q, tops, [len(m) for m in above])
                    kept = [len(m) if coarse[parents[c]] > first else 0 for c, m in enumerate(members)]
                    fine = share(q, centres, kept)
                    expected |= {j for c, m in enumerate(members) if fine[c] > threshold for j in m}
                picked = found[0, head, row]
                assert set(picked[picked >= 0].tolist()) == expected
                sizes.add(len(expected))
        assert min(sizes) < 40
    assert store.layers[0].notes["clusters"].thresholds.fine == pytest.approx(threshold, rel=1e-4)


def test_clusters_are_those_of_the_nearest_centre() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=-1)
    points = centres.repeat_interleave(10, 0) * 5 + 0.01 * torch.randn(30, 8, generator=generator)
    labels = cluster(points[None], 3)[0].view(3, 10)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0].tolist())) == 3


def test_a_tree_is_lossless(tiny_llama: LanguageModel) -> None:
    check_trees(tiny_llama, SqueezedAttention(**POLICY), 40, trees=3, depth=4)


def test_a_tree_is_lossless_where_all_scores_equal_the_threshold(tiny_llama: LanguageModel) -> None:
    """A short context has one cluster, whose score is one over its keys."""
    check_trees(tiny_llama, SqueezedAttention(observed=8, min_clusters=0), 29, trees=3, depth=4)


@pytest.mark.parametrize(("minimum", "made"), [(0, 2), (6, 6), (256, 10)])
def test_a_short_context_has_enough_clusters(tiny_llama: LanguageModel, minimum: int, made: int) -> None:
    """Forty keys: 5% of them, as many as asked for, at most one for four keys."""
    policy = SqueezedAttention(observed=5, min_clusters=minimum)
    store = read(tiny_llama, policy, some_tokens(tiny_llama, 45), 45)
    assert all(layer.notes["clusters"].sizes.shape == (2, made) for layer in store.layers)


def test_no_sparsity_is_dense(tiny_llama: LanguageModel) -> None:
    tokens = some_tokens(tiny_llama, 44)
    found = []
    for policy in (SqueezedAttention(sparsity=0, coarse_sparsity=0, observed=5), SqueezedAttention(observed=200)):
        store = read(tiny_llama, policy, tokens[:40])
        found.append([forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=True)
                      for i in range(40, 44)])  # fmt: skip
    torch.testing.assert_close(found[0], found[1])


def test_a_context_is_clustered_once_and_shared(tiny_llama: LanguageModel) -> None:
    """Two questions on forks of one context: clusters are the very same, and questions are attended to in full."""
    policy = SqueezedAttention(**POLICY)
    store = read(tiny_llama, policy, some_tokens(tiny_llama, 40))
    held = store.bytes
    for seed in (1, 2):
        fork = new_store(tiny_llama, policy, 0)
        fork.layers = [layer.fork() for layer in store.layers]
        question = Step(tuple(range(40, 50)), tiny_llama.device, prompt=True)
        forward(tiny_llama, fork, some_tokens(tiny_llama, 10, seed), question, all_logits=False)
        fork.prepare()
        for ours, theirs in zip(fork.layers, store.layers, strict=True):
            assert ours.notes["clusters"] is theirs.notes["clusters"]
            assert "queries" not in ours.notes
        last = fork.layers[0]
        last.step = Step((50,), tiny_llama.device)
        last.slots.reserve(1)
        chosen = policy.select(last, torch.randn(1, 4, 1, 16))
        assert chosen is not None
        assert {*range(34, 50)} <= set(chosen[0, 0, 0].tolist())
    assert store.bytes == held


@pytest.mark.model
def test_effect_reads_a_needle_in_a_tenth_of_the_context(smollm2: LanguageModel, alice: str) -> None:
    hay = alice[20000:23600]
    prompt = f"{hay[:1800]} The magic number of the garden is 7315. {hay[1800:]}\nThe magic number of the garden is"
    digits = slice(1, None)  # the first token is the space
    found = Engine(smollm2, attention="squeezed_attention:sparsity=0.9,observed=20").score(prompt, " 7315")
    counts = found.ledger.row("decode").counts
    control = Engine(smollm2, attention="h2o:budget=270,recent=1,interval=8").score(prompt, " 7315")
    assert max(found.ranks[digits]) == 0
    assert counts["attended"] < 0.2 * counts["attendable"]
    assert sum(control.logprobs[digits]) < sum(found.logprobs[digits]) - 2
