"""Sinks and drains against plain loops, and on a real model."""

from __future__ import annotations

import pytest
import torch

from tests.attention.test_attend import some_tokens
from tokloom import Engine
from tokloom.engine.forward import new_store, prefill
from tokloom.methods.evaluate.active_dormant_heads import ActiveDormantHeads, Sinks
from tokloom.models.language_model import LanguageModel


@pytest.mark.parametrize("chunk", [7, 64])
def test_sinks_and_drains_are_those_of_the_formula(tiny_llama: LanguageModel, chunk: int) -> None:
    tokens = some_tokens(tiny_llama, 30)
    watch = Sinks(skip=10)
    store = new_store(tiny_llama, watch, 0)
    for _ in prefill(tiny_llama, store, tokens, chunk):
        pass
    store.prepare()
    tiny_llama.model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = tiny_llama.model(input_ids=torch.tensor([tokens]), output_attentions=True, use_cache=True)
    found = watch.sinks()
    for layer, weights in enumerate(output.attentions):
        for head in range(4):
            expected = sum(float(weights[0, head, i, 0]) for i in range(10, 30)) / 20
            assert float(found[layer, head]) == pytest.approx(expected, abs=1e-5)
        values = output.past_key_values.layers[layer].values[0]
        for head in range(2):
            others = sum(float(values[head, j].norm()) for j in range(1, 30)) / 29
            assert float(watch.drains[layer][head]) == pytest.approx(float(values[head, 0].norm()) / others, rel=1e-4)


def test_the_threshold_says_who_is_dormant(tiny_llama: LanguageModel) -> None:
    (example,) = ActiveDormantHeads(length=40, windows=1).examples(tiny_llama)
    shares = [
        ActiveDormantHeads(length=40, windows=1, dormant=at).run(Engine(tiny_llama), example).scores["active"]
        for at in (1e-9, 0.1, 1)
    ]
    assert shares[0] == 0
    assert shares[0] <= shares[1] <= shares[2] == 1


@pytest.mark.model
def test_effect_first_token_is_a_sink_with_a_small_value(smollm2: LanguageModel) -> None:
    task = ActiveDormantHeads(windows=1)
    (example,) = task.examples(smollm2)
    scores = task.run(Engine(smollm2), example).scores
    assert scores["sink"] > 20 / task.length  # far above an even share
    assert scores["drain"] < 0.5
    assert scores["active"] < 0.8
