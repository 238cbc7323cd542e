"""What goes into an MLP, caught on the way, against transformers' own; requests on other threads see nothing of it."""

from __future__ import annotations

import threading

import pytest
import torch

from tests import tiny_models
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.capture import Capture, MlpInput
from tokloom.engine.request_context import RequestContext
from tokloom.errors import ArgumentError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.h2o import H2O
from tokloom.models.packed_linear import pack

TOKENS = [5, 9, 12, 7, 31, 18, 40, 22, 11, 8, 17, 26]


@pytest.mark.parametrize("policy", [Dense(), H2O(budget=64, interval=4)], ids=["dense", "h2o"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_the_input_of_every_mlp(family: str, fused: bool, policy: AttentionPolicy) -> None:
    """The prompt in chunks, then a draft tree whose rows all follow the first."""
    model = getattr(tiny_models, f"build_{family}")()
    layers = model.model.model.layers
    for layer in range(1, len(layers) + 1):
        seen: list[torch.Tensor] = []
        handle = layers[layer - 1].mlp.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0][0]))
        with torch.inference_mode():
            model.model(torch.tensor([TOKENS]))
        handle.remove()
        if fused and model.fused is None:
            pack(model.model, "fp32")
            model.__dict__.pop("fused")
        host = RequestContext(model, policy, 16, kv=None, prefill_chunk=5)
        store = host.open(len(TOKENS))
        read = host.prefill(store, TOKENS[:-1], hidden_layer=MlpInput(layer)).hidden
        step = Step((11, 12, 12), model.device, parents=(-1, 0, 0))
        new = host.forward(store, [TOKENS[-1], 3, 4], step, hidden_layer=MlpInput(layer - len(layers) - 1)).hidden
        assert (model.fused is not None) == fused
        assert new.shape == (3, 48)
        torch.testing.assert_close(torch.cat([read, new[:1]]), seen[0], atol=1e-4, rtol=1e-4)


def test_another_thread_in_the_same_layer_is_not_caught() -> None:
    model = tiny_models.build_llama()

    def run(tokens: list[int], place: MlpInput | None) -> torch.Tensor:
        host = RequestContext(model, Dense(), 0, kv=None, prefill_chunk=64)
        return host.prefill(host.open(len(tokens)), tokens, hidden_layer=place).hidden

    expected = run(TOKENS, MlpInput(2))
    others = [threading.Thread(target=run, args=(TOKENS[::-1] * 5, None)) for _ in range(4)]
    for thread in others:
        thread.start()
    found = [run(TOKENS, MlpInput(2)) for _ in range(10)]
    for thread in others:
        thread.join()
    assert all(torch.equal(hidden, expected) for hidden in found)


def test_the_embeddings_have_no_mlp() -> None:
    with pytest.raises(ArgumentError, match="not 0"):
        Capture(MlpInput(0), 3)
