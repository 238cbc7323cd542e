"""What a policy gets that asks for sums: those of the probabilities that it would get, accepted rows only."""

from __future__ import annotations

import pytest
import torch

from tests.attention.test_attend import some_tokens, step_at
from tests.attention.test_ragged import VARIANTS, Ragged, shared
from tokloom.attention import attend
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVLayer, Step


class Summing(Ragged):
    needs = ("attention_sums",)

    def seen(self, layer: KVLayer, weights: torch.Tensor) -> torch.Tensor:
        return weights

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None
        sums = self.seen(layer, weights)
        assert sums.shape == (1, layer.kv_heads, layer.count)
        layer.slot_memory("score").add_(sums)


class Weighing(Summing):
    needs = ("attention_weights",)

    def seen(self, layer: KVLayer, weights: torch.Tensor) -> torch.Tensor:
        return weights.unflatten(1, (layer.kv_heads, -1)).sum((2, 3), dtype=torch.float32)


@pytest.mark.parametrize("kind", VARIANTS)
def test_sums_are_those_of_the_probabilities(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "MAX_WEIGHTS", 1000)  # some rows at a time
    model, stores = shared(kind), []
    for policy in (Summing(), Weighing()):
        store = new_store(model, policy, 0)
        for _ in prefill(model, store, some_tokens(model, 150), 70):
            pass
        forward(model, store, [7], step_at(model, 150), all_logits=True)
        step = Step((151, 152, 152), model.device, parents=(-1, 0, 0))
        forward(model, store, [3, 4, 5], step, all_logits=True)
        store.accept([0, 2])
        stores.append(store)
    for summed, weighed in zip(*(store.layers for store in stores), strict=True):
        if summed.window is None:
            assert summed.slot_memory("score").abs().sum() > 0
        torch.testing.assert_close(summed.slot_memory("score"), weighed.slot_memory("score"), atol=1e-4, rtol=1e-4)


class Watching(Weighing):
    """Wants the last five rows of a chunk only."""

    watched = 5

    def seen(self, layer: KVLayer, weights: torch.Tensor) -> torch.Tensor:
        return super().seen(layer, weights[:, :, -5:])


class Looking(Watching):
    watched = 1000


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_last_rows_alone_are_as_among_all(kind: str) -> None:
    model, stores = shared(kind), []
    for policy in (Watching(), Looking()):
        store = new_store(model, policy, 0)
        for _ in prefill(model, store, some_tokens(model, 73), 35):
            pass
        forward(model, store, [7], step_at(model, 73), all_logits=True)
        stores.append(store)
    for few, many in zip(*(store.layers for store in stores), strict=True):
        torch.testing.assert_close(few.slot_memory("score"), many.slot_memory("score"), atol=1e-5, rtol=1e-4)
