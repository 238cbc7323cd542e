"""ActQKV against its formula: bias and probe, density and cut-off, layers that together keep to the total."""

from __future__ import annotations

import math

import pytest
import torch

from tests.attention.selecting import calibration, check, grouped
from tests.attention.test_attend import some_tokens, step_at
from tests.methods.attention.test_select import LEFT, POLICY
from tokloom import Engine, Sampling
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.methods.attention.act_qkv import ActQKV, activation_bias, density
from tokloom.models.language_model import LanguageModel


def test_the_probe_is_the_mean_weighted_by_bias() -> None:
    queries = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    middle = [[float(queries[0, h, :, d].mean()) for d in range(8)] for h in range(4)]
    bias = [sum((float(queries[0, h, t, d]) - middle[h][d]) ** 2 for h in range(4) for d in range(8)) for t in range(6)]
    torch.testing.assert_close(activation_bias(queries)[0], torch.tensor(bias))
    expected = sum(b * queries[0, :, t] for t, b in enumerate(bias)) / sum(bias)
    torch.testing.assert_close(ActQKV().probe(queries)[0, :, 0], expected)


def test_a_uniform_window_asks_with_its_mean() -> None:
    queries = torch.ones(1, 4, 6, 8)
    torch.testing.assert_close(ActQKV().probe(queries), queries[:, :, :1])


def test_density_is_the_entropy_as_a_share() -> None:
    shares = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    torch.testing.assert_close(density(shares, torch.tensor([4, 4, 4])), torch.tensor([1.0, 0.0, 0.5]))


def test_rounding_takes_no_density_below_zero() -> None:
    """In the last layer it is divided by next to nothing else."""
    one = torch.tensor([[1.0 + 2.0**-23]])
    assert float(density(one, torch.tensor([1]))) == 0


@pytest.mark.parametrize("options", ["sink=2,local=6,budget=20", "sink=0,local=8,budget=11,dense_layers=1"])
@pytest.mark.parametrize("chunk", [1, 512])
def test_texts_that_grow_over_the_budget_with_a_single_block_to_choose(
    options: str, chunk: int, tiny_llama: LanguageModel
) -> None:
    engine = Engine(tiny_llama, attention=f"act_qkv:{options}", prefill_chunk=chunk)
    for prompt in ("one two", "three one four one five " * 12, "seven six five four three two one " * 8):
        assert len(engine.generate(prompt, sampling=Sampling(max_new_tokens=24)).tokens) == 24


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, spread: float) -> None:
    policy = ActQKV(**POLICY, block=3, spread=spread, prompt=False)
    later = [float(part["density"][0]) for part in calibration(tiny_llama, policy)]
    assert later[0] > later[1] > later[2] == 0
    left: dict[int, float] = {}  # by the query

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        total = left[candidates[-1]] if layer else 3 * LEFT
        end = candidates[-1] + 1
        full = range(candidates[0] // 3, end // 3)
        scores, entropies = [], []
        for q, k in grouped(queries, keys):
            means = torch.stack([k[i * 3 : i * 3 + 3].mean(0) for i in full])
            weights = (q @ means.T * 0.25).softmax(-1).sum(0)
            scores.append(dict(zip(full, weights.tolist(), strict=True)))
            p = (weights / weights.sum()).tolist()
            entropies.append(-sum(x * math.log(x) for x in p if x > 0) / math.log(len(full) + (end % 3 > 0)))
        own = sum(entropies) / 2
        maximum = math.floor(spread * LEFT)
        blocks = int(min(total * own / (own + later[layer]), maximum) / 3 + 1e-4)
        left[candidates[-1]] = total - 3 * blocks
        sets = []
        for by_block in scores:
            ranked = ([end // 3] if end % 3 else []) + sorted(by_block, key=lambda i: -by_block[i])
            sets.append({j for i in ranked[:blocks] for j in range(3 * i, 3 * i + 3)} & set(candidates))
        return sets

    check(tiny_llama, policy, chosen)


def test_all_layers_together_keep_to_the_total(tiny_llama: LanguageModel) -> None:
    policy = ActQKV(**POLICY, block=2, prompt=True)
    store = new_store(tiny_llama, policy, 0)
    tokens = some_tokens(tiny_llama, 90)
    for _ in prefill(tiny_llama, store, tokens[:80], 20):
        pass
    before = store.pairs()["attended"]
    for i in range(80, 90):
        forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=False)
    attended = store.pairs()["attended"] - before
    total = 10 * POLICY["budget"] * tiny_llama.model.config.num_key_value_heads * 3
    assert 0.75 * total < attended <= total
