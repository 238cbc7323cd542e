"""Submodels: the same logits as a model that was built with these layers only, on the whole model's own store."""

from __future__ import annotations

import copy

import pytest
import torch

from tokloom.engine.forward import forward, new_store
from tokloom.errors import ArgumentError
from tokloom.kv.store import KVStore, Step
from tokloom.methods.attention.dense import Dense
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack
from tokloom.models.submodel import submodel

TOKENS = list(range(10, 25))
FAMILIES = ("tiny_llama", "tiny_gemma3", "tiny_qwen3")


def run(model: LanguageModel, store: KVStore) -> torch.Tensor:
    return forward(model, store, TOKENS, Step(tuple(range(15)), model.device, prompt=True), all_logits=True)


def with_layers(model: LanguageModel, layers: list[int]) -> torch.Tensor:
    """By transformers alone, in a copy of the model."""
    whole = copy.deepcopy(model.model)
    inner = whole.model
    inner.layers = torch.nn.ModuleList(inner.layers[i] for i in layers)
    if getattr(whole.config, "layer_types", None):
        inner.config.layer_types = [whole.config.layer_types[i] for i in layers]
    inner.config.num_hidden_layers = len(layers)
    whole.set_attn_implementation("eager")
    with torch.inference_mode():
        logits: torch.Tensor = whole(torch.tensor([TOKENS]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_some_layers_alone(family: str, fused: bool, request: pytest.FixtureRequest) -> None:
    whole: LanguageModel = request.getfixturevalue(family)
    if fused:
        whole = packed(whole)
    last = whole.model.config.num_hidden_layers - 1
    store = new_store(whole, Dense(), 0)
    part = submodel(whole, [0, last])
    assert (part.fused is not None) == fused
    logits = run(part, store)
    expected = with_layers(request.getfixturevalue(family), [0, last])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    used = [layer.index for layer in store.layers if layer.is_initialized and layer.count]
    assert used == sorted({0, last})


@pytest.mark.parametrize("fused", [False, True])
def test_first_layers_leave_what_the_whole_model_would(fused: bool, tiny_llama: LanguageModel) -> None:
    whole = packed(tiny_llama) if fused else tiny_llama
    one, other = new_store(whole, Dense(), 0), new_store(whole, Dense(), 0)
    all_of_it = run(whole, one)
    run(submodel(whole, [0, 1]), other)
    for i in (0, 1):
        torch.testing.assert_close(one.layers[i].keys, other.layers[i].keys)
    assert torch.equal(run(submodel(whole, [0, 1, 2]), new_store(whole, Dense(), 0)), all_of_it)


@pytest.mark.parametrize("fused", [False, True])
def test_an_adapter_comes_before_the_norm(fused: bool, tiny_qwen3: LanguageModel) -> None:
    whole = packed(tiny_qwen3) if fused else tiny_qwen3
    turned = run(submodel(whole, [0], lambda hidden: hidden.flip(-1)), new_store(whole, Dense(), 0))
    with torch.inference_mode():
        hidden = tiny_qwen3.model(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states[1]
        expected = tiny_qwen3.model.lm_head(tiny_qwen3.model.model.norm(hidden.flip(-1)))[0]
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)


def test_the_whole_model_stays_as_it_was(tiny_gemma3: LanguageModel) -> None:
    before = run(tiny_gemma3, new_store(tiny_gemma3, Dense(), 0))
    part = submodel(tiny_gemma3, [0, 2])
    run(part, new_store(tiny_gemma3, Dense(), 0))
    assert tiny_gemma3.model.config.num_hidden_layers == 4
    assert part.model.config.num_hidden_layers == 2
    assert torch.equal(run(tiny_gemma3, new_store(tiny_gemma3, Dense(), 0)), before)


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 3], [-1]])
def test_bad_layers_are_refused(layers: list[int], tiny_llama: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="layers="):
        submodel(tiny_llama, layers)


def packed(model: LanguageModel) -> LanguageModel:
    twin = copy.deepcopy(model.model)
    pack(twin, "fp32")
    return LanguageModel(model.name, twin, model.tokenizer, "fp32")
