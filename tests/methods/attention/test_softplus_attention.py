"""Re-weighted attention against its formula, in chunks, steps and trees."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import repeat_kv

from tests.attention.steps import check_trees, read
from tests.attention.test_attend import reference_logits, some_tokens, step_at
from tokloom import Engine
from tokloom.engine.forward import forward
from tokloom.errors import SpecError
from tokloom.methods.attention.softplus_attention import SoftplusAttention
from tokloom.models.language_model import LanguageModel

OPTIONS = [
    {"power": 2.0},
    {"power": 1.0, "offset": 0.3},
    {"power": 15.0, "offset": 1.0, "normalisation": "softplus"},
    {"power": 1.0, "normalisation": "softplus"},
]


def row_weights(raw: list[float], width: int, power: float, offset: float, normalisation: str) -> list[float]:
    """One row by the formula; `raw` are q k / sqrt(d)."""
    count = len(raw)
    if normalisation == "softmax":
        values = [math.exp(x - max(raw)) for x in raw]
    else:
        values = [math.log1p(math.exp(x * math.log(width) * math.log(count))) for x in raw]
    weights = [x / sum(values) for x in values]
    sharp = [max(count * w - offset, 0.0) ** power for w in weights]
    return [x / sum(sharp) for x in sharp] if sum(sharp) > 0 else weights


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk", [7, 64])
def test_logits_are_those_of_the_formula(tiny_llama: LanguageModel, options: dict[str, float], chunk: int) -> None:
    policy = SoftplusAttention(**options)

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):  # type: ignore[no-untyped-def]
        key, value = repeat_kv(key, 2), repeat_kv(value, 2)
        out = torch.zeros_like(query)
        for i in range(query.shape[2]):
            for h in range(query.shape[1]):
                raw = [float(query[0, h, i] @ key[0, h, j]) * scaling for j in range(i + 1)]
                weights = row_weights(raw, query.shape[-1], policy.power, policy.offset, policy.normalisation)
                out[0, h, i] = torch.tensor(weights) @ value[0, h, : i + 1]
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("reweighted", attend)
    tiny_llama.model.set_attn_implementation("reweighted")
    tokens = some_tokens(tiny_llama, 30)
    expected = reference_logits(tiny_llama, tokens)
    store = read(tiny_llama, policy, tokens[:26], chunk)
    for i in range(26, 30):
        logits = forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=True)
        torch.testing.assert_close(logits[0], expected[i], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_tree_is_lossless(tiny_llama: LanguageModel, options: dict[str, float]) -> None:
    check_trees(tiny_llama, SoftplusAttention(**options), 20, trees=2, depth=4)


def test_power_one_without_offset_is_dense(tiny_llama: LanguageModel) -> None:
    tokens = some_tokens(tiny_llama, 20)
    store = read(tiny_llama, SoftplusAttention(power=1), tokens[:19])
    logits = forward(tiny_llama, store, [tokens[19]], step_at(tiny_llama, 19), all_logits=True)
    torch.testing.assert_close(logits[0], reference_logits(tiny_llama, tokens)[-1], atol=1e-4, rtol=1e-4)


def test_bad_powers_are_refused() -> None:
    with pytest.raises(SpecError, match=r"softplus_attention:power=0\.5"):
        SoftplusAttention(power=0.5)


@pytest.mark.model
def test_effect_small_powers_cost_little_and_softplus_needs_training(smollm2: LanguageModel, alice: str) -> None:
    """Measured, in nats: 3.44 dense, 3.47 with the default's power, 4.68 with softplus in place of the exponential."""

    def loss(spec: str) -> float:
        score = Engine(smollm2, attention=spec).score(alice[20000:21000], alice[21000:21080])
        return -sum(score.logprobs) / len(score.logprobs)

    dense = loss("dense")
    assert loss("softplus_attention") < dense + 0.05
    assert loss("softplus_attention:power=1,normalisation=softplus") > dense + 1
