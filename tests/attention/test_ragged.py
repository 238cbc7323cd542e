"""KV heads that hold different numbers of slots, against a dense pass with an explicit mask."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny_models
from tests.attention import masked
from tests.attention.test_attend import some_tokens, step_at
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVLayer, KVStore, Step
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack


@dataclass(eq=False)
class Ragged(AttentionPolicy):
    """Keeps the last four tokens and of the others a part that differs by layer and head; sometimes none of them."""

    name: ClassVar[str] = "ragged"

    seed: int = 0
    interval: int = 3

    def max_draft_tokens(self, seen: int) -> int:
        return self.interval - seen % self.interval

    def kept(self, layer: int, head: int, held: list[int], seen: int) -> list[int]:
        probability = (0.8, 0.3, 0.0)[(layer + head + self.seed) % 3]
        noise = {p: hash((self.seed, layer, head, p)) % 1000 / 1000 for p in held}
        return [p for p in held if p >= seen - 4 or noise[p] < probability]

    def evict(self, layer: KVLayer) -> torch.Tensor:
        rows = []
        for head, positions in enumerate(layer.positions[0].tolist()):
            held = [p for p in positions if p >= 0]
            assert positions == [-1] * (len(positions) - len(held)) + held, "holes stand at the front"
            kept = set(self.kept(layer.index, head, held, layer.seen))
            rows.append([slot for slot, p in enumerate(positions) if p in kept])
        maximum = max(map(len, rows)) + self.seed % 2  # a column of holes alone is no matter
        return torch.tensor([[[-1] * (maximum - len(row)) + row for row in rows]])


def variant(kind: str) -> LanguageModel:
    """transformers' modules with few rows by the core's kernel, all by the core, all by torch, sliding layers."""
    model = tiny_models.build_gemma3() if kind == "sliding" else tiny_models.build_llama()
    if kind in ("core", "sliding"):
        pack(model.model, "exact")
        assert model.fused is not None
    if kind == "torch":
        model = copy.copy(model)
        object.__setattr__(model, "model", model.model.double())
        object.__setattr__(model, "dtype", torch.float64)
    return model


VARIANTS = ("modules", "core", "torch", "sliding")
MODELS: dict[str, LanguageModel] = {}


def shared(kind: str) -> LanguageModel:
    if kind not in MODELS:
        MODELS[kind] = variant(kind)
    return MODELS[kind]


def shape(model: LanguageModel) -> tuple[int, int]:
    config = model.model.config
    return config.num_hidden_layers, config.num_key_value_heads


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(VARIANTS), seed=st.integers(0, 50), chunk=st.integers(1, 30), tokens=st.integers(8, 60))
def test_chunks_and_steps_equal_a_masked_dense_pass(kind: str, seed: int, chunk: int, tokens: int) -> None:
    model, policy = shared(kind), Ragged(seed)
    text, steps = some_tokens(model, tokens + 10, seed), 10
    passes = [(min(chunk, tokens - start), True) for start in range(0, tokens, chunk)]
    passes += [(1, (tokens + i + 1) % policy.interval == 0) for i in range(steps)]
    expected = masked.logits(model, text, masked.visible(*shape(model), passes, policy.kept))
    store = new_store(model, policy, 0)
    for done, logits in prefill(model, store, text[:tokens], chunk):
        torch.testing.assert_close(logits.float(), expected[done - 1].float(), atol=2e-4, rtol=1e-4)
    store.shrink(2)  # the gap is used up after two tokens
    for i in range(tokens, tokens + steps):
        logits = forward(model, store, [text[i]], step_at(model, i), all_logits=True)
        torch.testing.assert_close(logits[0].float(), expected[i].float(), atol=2e-4, rtol=1e-4)
    counts = store.slots()
    assert counts["held"] + counts["evicted"] == counts["seen"]
    assert any(layer.holes is not None for layer in store.layers) or chunk == 1
    pairs = sum(int(mask.sum()) for mask in masked.visible(*shape(model), passes, policy.kept))
    if kind != "sliding":
        assert store.pairs()["attended"] == pairs


@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(VARIANTS), seed=st.integers(0, 50), data=st.data())
def test_a_tree_and_its_rollback_equal_a_masked_dense_pass(kind: str, seed: int, data: st.DataObject) -> None:
    model, policy = shared(kind), Ragged(seed, interval=6)
    past = 6 * data.draw(st.integers(2, 6))
    parents = [-1]
    depths = [0]
    for _ in range(data.draw(st.integers(1, 8))):
        parent = data.draw(st.sampled_from([r for r in range(len(parents)) if depths[r] < policy.interval - 1]))
        parents.append(parent)
        depths.append(depths[parent] + 1)
    text, rows = some_tokens(model, past, 1), some_tokens(model, len(parents), 2)
    store = new_store(model, policy, 0)
    for _ in prefill(model, store, text, 10):
        pass
    before = [(min(10, past - start), True) for start in range(0, past, 10)]
    assert store.max_draft_tokens() == 6
    step = Step(tuple(past + depth for depth in depths), model.device, parents=tuple(parents))
    logits = forward(model, store, rows, step, all_logits=True)
    paths: list[list[int]] = []
    for row, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), row])
        whole = text + [rows[r] for r in paths[-1]]
        masks = masked.visible(*shape(model), [*before, (len(paths[-1]), False)], policy.kept)
        expected = masked.logits(model, whole, masks)[-1]
        torch.testing.assert_close(logits[row].float(), expected.float(), atol=2e-4, rtol=1e-4)
    path = data.draw(st.sampled_from(paths))
    store.accept(path)
    text = text + [rows[r] for r in path]
    passes = [*before, (len(path), len(path) == 6)]
    for token in some_tokens(model, 8, 3):
        text.append(token)
        passes.append((1, len(text) % 6 == 0))
        found = forward(model, store, [token], step_at(model, len(text) - 1), all_logits=True)[0]
        expected = masked.logits(model, text, masked.visible(*shape(model), passes, policy.kept))[-1]
        torch.testing.assert_close(found.float(), expected.float(), atol=2e-4, rtol=1e-4)


def filled(kind: str = "core", kv: str | None = None, policy: AttentionPolicy | None = None) -> KVStore:
    model = shared(kind)
    store = new_store(model, policy or Ragged(), 0, kv)
    for _ in prefill(model, store, some_tokens(model, 100), 64):
        pass
    return store


@pytest.mark.parametrize(("kv", "row"), [(None, 64), ("bf16", 32), ("int8", 20), ("int4", 20)])
def test_bytes_are_the_sum_of_what_the_heads_hold(kv: str | None, row: int) -> None:
    """Rows of 16 elements: 4, 2 or 1 byte each, a scale with int8, one group of 20 bytes with int4."""
    store = filled(kv=kv)
    for layer in store.layers:
        layer.slots.resize(layer.count + 3)
        assert layer.holes is not None
        held = [layer.count - int(holes) for holes in layer.holes[0]]
        assert held[0] != held[1]
        positions = 2 * (layer.count + 3) * 4
        centres = 2 * 16 * 4 if kv == "int4" else 0
        assert layer.bytes == sum(2 * row * (count + 3) for count in held) + positions + centres
    assert store.bytes < 0.7 * 100 * 2 * 2 * row * len(store.layers)


def test_holes_are_zeros_at_the_front_and_memory_moves_with_its_slots() -> None:
    class Marking(Ragged):
        def observe(self, layer: KVLayer, queries: torch.Tensor, weights: Any) -> None:
            layer.slot_memory("position").copy_(layer.positions)

        def evict(self, layer: KVLayer) -> torch.Tensor:
            assert torch.equal(layer.slot_memory("position"), layer.positions.float())
            return super().evict(layer)

    for kind in ("core", "torch"):
        store = filled(kind, policy=Marking())
        for layer in store.layers:
            assert layer.holes is not None
            for head, holes in enumerate(layer.holes[0].tolist()):
                assert (layer.positions[0, head, :holes] == -1).all()
                assert (layer.positions[0, head, holes:] >= 0).all()
                assert (layer.keys[0, head, :holes] == 0).all()
                assert (layer.slot_memory("position")[0, head, :holes] == 0).all()
                kept = layer.positions[0, head, holes:].float()
                assert torch.equal(layer.slot_memory("position")[0, head, holes:], kept)


def test_a_selection_passes_over_holes() -> None:
    """Asking for every slot, holes included, is asking for all that exist."""

    class Asking(Ragged):
        def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor:
            return torch.arange(layer.past).expand(1, 1, 1, -1)

    for kind in ("core", "torch", "modules"):
        model = shared(kind)
        logits = []
        for policy in (Ragged(), Asking()):
            store = filled(kind, policy=policy)
            found = [forward(model, store, [9], step_at(model, 100), all_logits=True)[0]]
            step = Step((101, 102, 102), model.device, parents=(-1, 0, 0))
            found.extend(forward(model, store, [3, 4, 5], step, all_logits=True))
            logits.append(torch.stack(found))
            pairs = store.pairs()
        torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
        assert pairs["attended"] < pairs["attendable"]


def test_probabilities_in_holes_are_zero() -> None:
    class Watching(Ragged):
        needs = ("attention_weights",)

        def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
            assert weights is not None
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-5, rtol=0)
            if layer.holes is not None:
                hole = layer.positions < 0
                hole = hole.repeat_interleave(weights.shape[1] // hole.shape[1], 1)[:, :, None].expand_as(weights)
                assert (weights[hole] == 0).all()

    for kind in VARIANTS:
        filled(kind, policy=Watching())


def test_holes_behind_slots_are_refused() -> None:
    class Wrong(AttentionPolicy):
        def evict(self, layer: KVLayer) -> torch.Tensor:
            return torch.tensor([[[0, 1], [0, -1]]])

    with pytest.raises(ValueError, match="front"):
        filled(policy=Wrong())
