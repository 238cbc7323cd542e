"""The fused decoder against transformers' own modules, family by family, for prompts, tokens, trees and policies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests import tiny_models
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVStore, Step
from tokloom.methods.attention.dense import Dense
from tokloom.models.fused_decoder import fuse
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack

SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]


def build(name: str) -> LanguageModel:
    """A tiny random model of a family, with all that the family has: windows, soft caps, biases."""
    built = {"llama": tiny_models.build_llama, "gemma3": tiny_models.build_gemma3, "qwen3": tiny_models.build_qwen3}
    if name in built:
        return built[name]()
    tokenizer = tiny_models.chat_tokenizer()
    shape = tiny_models.shape(tokenizer, 3)
    cls, config = {
        "mistral": (MistralForCausalLM, MistralConfig(**shape, sliding_window=8)),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**{k: v for k, v in shape.items() if k != "head_dim"})),
        "gemma2": (
            Gemma2ForCausalLM,
            Gemma2Config(
                **shape, sliding_window=8, layer_types=SLIDING, query_pre_attn_scalar=16, attn_logit_softcapping=2.0,
                final_logit_softcapping=5.0,
            ),
        ),
        "yarn": (MistralForCausalLM, MistralConfig(**shape, sliding_window=None)),
    }[name]  # fmt: skip
    model = tiny_models.random_model(cls, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):  # zero when fresh
                parameter.normal_(0, 0.3, generator=generator)
    return LanguageModel(name, model, tokenizer)


FAMILIES = ["llama", "gemma3", "qwen3", "mistral", "qwen2", "gemma2"]
TREE = (-1, 0, 0, 1, 1, 2)


class Watching(AttentionPolicy):
    """Changes nothing, but wants to see everything: layers run one by one."""

    needs = ("attention_weights",)

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def observe(self, layer: Any, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None
        assert queries.shape[2] == weights.shape[2]
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)
        self.weights.append(weights.clone())


def run(model: LanguageModel, policy: AttentionPolicy, kv: str | None = None) -> tuple[torch.Tensor, KVStore]:
    """Logits after a prompt in two chunks, two tokens, a tree of which one path is kept, and one more token."""
    tokens = [5 + (i * 37) % 300 for i in range(60)]
    store = new_store(model, policy, 0, kv)
    logits = [after for _, after in prefill(model, store, tokens[:40], 25)]
    for position in (40, 41):
        logits.append(forward(model, store, [tokens[position]], Step((position,), model.device), all_logits=True)[0])
    step = Step((42, 43, 43, 44, 44, 44), model.device, parents=TREE)
    logits.extend(forward(model, store, tokens[42:48], step, all_logits=True))
    store.accept([0, 2, 5])
    logits.append(forward(model, store, [tokens[50]], Step((45,), model.device), all_logits=True)[0])
    return torch.stack(logits), store


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("policy", [Dense, Watching])
def test_logits_are_those_of_transformers(name: str, policy: Any) -> None:
    model = build(name)
    assert model.fused is None  # not packed
    expected, _ = run(model, Dense())
    packed = build(name)
    pack(packed.model, "exact")
    assert packed.fused is not None
    found, store = run(packed, policy())
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert store.seen == 46


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_probabilities_that_a_policy_sees_are_those_of_transformers(name: str) -> None:
    seen = []
    for packed in (False, True):
        model, policy = build(name), Watching()
        if packed:
            pack(model.model, "exact")
        run(model, policy)
        seen.append(policy.weights)
    assert len(seen[0]) == len(seen[1]) > 0
    for expected, found in zip(*seen, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("kv", "tolerance"), [("bf16", 0.02), ("int8", 0.05), ("int4", 0.3)])
def test_stored_precisions(name: str, kv: str, tolerance: float) -> None:
    """The same with both ways of attention, and near the exact one; bytes are those of the tensors."""
    model = build(name)
    expected, exact = run(model, Dense())
    by_modules, _ = run(model, Dense(), kv)
    packed = build(name)
    pack(packed.model, "exact")
    fused, store = run(packed, Dense(), kv)
    spread = expected.std()
    assert (fused - expected).abs().max() < tolerance * 8 * spread
    assert (fused - by_modules).abs().max() < tolerance * 8 * spread
    assert not torch.equal(fused, expected)
    assert 0.15 < store.bytes / exact.bytes < 0.8


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_other_precisions_run_fused(weights: str) -> None:
    model, packed = build("llama"), build("llama")
    expected, _ = run(model, Dense())
    pack(packed.model, weights)
    found, _ = run(packed, Dense())
    assert packed.fused is not None
    assert (found - expected).abs().max() < {"fp32": 2e-4, "bf16": 0.3}[weights] * max(1.0, float(expected.std()))


@pytest.mark.parametrize("kind", ["linear", "yarn", "dynamic"])
def test_scaled_rotary_embeddings(kind: str) -> None:
    """Angles that depend on the position alone come from a table; others are left to transformers."""
    models = []
    for _ in range(2):
        model = build("yarn")
        config = copy.deepcopy(model.model.config)
        config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
        if kind == "yarn":
            config.rope_parameters["original_max_position_embeddings"] = 256
        models.append(LanguageModel(kind, tiny_models.random_model(MistralForCausalLM, config), model.tokenizer))
    pack(models[1].model, "exact")
    assert (models[1].fused is None) == (kind == "dynamic")
    torch.testing.assert_close(run(models[1], Dense())[0], run(models[0], Dense())[0], atol=2e-4, rtol=1e-4)


def test_an_unknown_family_runs_through_transformers() -> None:
    tokenizer = tiny_models.chat_tokenizer()
    config = Phi3Config(**tiny_models.shape(tokenizer, 2))
    packed = LanguageModel("phi3", tiny_models.random_model(Phi3ForCausalLM, config), tokenizer)
    expected, _ = run(packed, Dense())
    pack(packed.model, "exact")
    assert fuse(packed.model) is None
    torch.testing.assert_close(run(packed, Dense())[0], expected, atol=2e-4, rtol=1e-4)


def test_two_requests_at_once_do_not_disturb_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    packed = build("llama")
    pack(packed.model, "exact")
    expected, _ = run(packed, Dense())
    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(lambda _: run(packed, Dense()), range(8)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
