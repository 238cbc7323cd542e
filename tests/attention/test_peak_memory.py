"""What an evicting policy's store takes at most: its budget and one chunk, and after the prompt its budget."""

from __future__ import annotations

import pytest

from tests.attention.test_attend import some_tokens, step_at
from tests.attention.test_ragged import shared
from tests.test_every_method import POLICIES, policy
from tokloom.attention.policy import UNLIMITED
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVStore, Step
from tokloom.methods.attention.snap_kv import SnapKV

CHUNK = 32
SPARE = 100


def read(kind: str, name: str) -> KVStore:
    model = shared(kind)
    store = new_store(model, policy(name), 300 + SPARE)
    for _ in prefill(model, store, some_tokens(model, 300), CHUNK):
        pass
    return store


EVICTING = [name for name in POLICIES if policy(name).max_slots(read("core", name).layers[0]) < UNLIMITED]


def test_the_policies_that_evict_have_a_bound() -> None:
    assert {"h2o", "snap_kv", "tree_kv", "ems", "streaming_llm", "random_eviction", "sp_atten"} <= set(EVICTING)


@pytest.mark.parametrize("name", EVICTING)
@pytest.mark.parametrize("kind", ["core", "modules", "sliding"])
def test_peak_is_the_budget_and_one_chunk(kind: str, name: str) -> None:
    store, model = read(kind, name), shared(kind)
    for layer in store.layers:
        bound = layer.window + 64 if layer.window is not None else policy(name).max_slots(layer)
        assert layer.slots.peak_bytes <= layer.bytes / layer.slots.capacity * (bound + CHUNK)
    store.shrink(SPARE)
    for layer in store.layers:
        assert layer.window is not None or layer.slots.capacity <= policy(name).max_slots(layer) * 5 // 4
    for i in range(300, 340):
        forward(model, store, [9], step_at(model, i), all_logits=True)
    for layer in store.layers:  # heads may differ by now
        assert layer.window is not None or layer.slots.capacity <= policy(name).max_slots(layer) * 5 // 4
    tree = Step((340, *[341] * 40), model.device, parents=(-1, *[0] * 40))
    forward(model, store, [9] * 41, tree, all_logits=True)
    store.accept([0])
    assert store.seen == 341


def test_where_heads_differ_it_is_the_mean_that_counts() -> None:
    store, model = new_store(shared("core"), SnapKV(budget=24, interval=4, window=4, adaptive=True), 0), shared("core")
    for _ in prefill(model, store, some_tokens(model, 300), CHUNK):
        pass
    assert any(layer.holes is not None for layer in store.layers)
    for layer in store.layers:
        places = len(layer.slots._keys[0]) / layer.kv_heads
        # the longest head's piece goes beyond the mean, and grows by an eighth more than it needs
        assert layer.slots.peak_bytes <= layer.slots.bytes / places * (24 + CHUNK) * 5 / 4
