"""What is laid out for the core against the hooks it stands for: the same slots, logits, tallies and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests import tiny_models
from tokloom import registry
from tokloom._core import Index, LayerPlan
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import Job, forward, forward_many, new_store, prefill
from tokloom.kv.mapped_memory import MappedMemory
from tokloom.kv.store import KVStore, Step
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack

SIZES = "budget=24,sink=3,local=6"
SPECS = [
    f"select:{SIZES}",
    f"top_p:{SIZES},mass=0.5",
    f"tidal_decode:{SIZES},layers=[0,2]",
    f"tidal_decode:{SIZES},share=0.4",
    f"quest:{SIZES},page=4",
    f"quest:{SIZES},page=1",
    f"hisa:{SIZES},block=4,ratio=0.4",
    f"hisa:{SIZES},block=4,host=fasa",
    f"hisa:{SIZES},block=4,host=misa",
    f"hisa:{SIZES},block=4,host=token_select",
    f"misa:{SIZES},block=4,active=2",
    f"misa:{SIZES},block=4,active=1,enlarge=1.5",
    f"misa:{SIZES},active=99",
    f"fasa:{SIZES},chunks=3",
    f"rtpurbo:{SIZES},dims=4,steps=2",
    f"token_select:{SIZES},prompt=false,similarity=0.5",
    f"token_select:{SIZES},prompt=false,similarity=2",
    f"token_select:{SIZES},prompt=false,scorer=quest,similarity=0.5",
    f"act_qkv:{SIZES},prompt=false,block=3",
    f"ice_cache:{SIZES},page=3,batch=12",
    f"ice_cache:{SIZES},page=4,batch=64",
    f"select:{SIZES},scorer=quest,schedule=tidal_decode",
    f"quest:{SIZES},dense_layers=1",
    "squeezed_attention:sparsity=0.6,clusters=0.3,observed=9",
    "squeezed_attention:sparsity=0,observed=9",
]
TREE = (-1, 0, 0, 1, 1, 2)
KEPT = ([0, 2, 5], [0, 1], [0, 1, 4], [0])


@pytest.fixture(scope="module")
def packed() -> LanguageModel:
    model = tiny_models.build_llama()
    pack(model.model, "exact")
    assert model.fused is not None
    return model


class Chosen:
    """Watches: the slots that each row of each KV head attends to, layer after layer and pass after pass."""

    def __init__(self) -> None:
        self.found: list[list[list[list[int]]] | None] = []

    def __call__(self, layer: Any, selected: torch.Tensor | None) -> None:
        if selected is None:
            self.found.append(None)
            return
        every = selected.expand(1, layer.kv_heads, layer.step.rows, -1)[0]
        self.found.append([[sorted(slot for slot in row if slot >= 0) for row in head] for head in every.tolist()])


def run(model: LanguageModel, policy: AttentionPolicy, kv: str | None) -> tuple[list[torch.Tensor], Chosen, KVStore]:
    tokens = [5 + (i * 37) % 300 for i in range(120)]
    watch = Chosen()
    store = new_store(model, policy, 0, kv, watch)
    logits = [after for _, after in prefill(model, store, tokens[:50], 25)]
    store.prepare()
    for position in range(50, 58):
        logits.append(forward(model, store, [tokens[position]], Step((position,), model.device), all_logits=True)[0])
    for kept in KEPT:
        start = store.seen
        step = Step(tuple(start + depth for depth in (0, 1, 1, 2, 2, 2)), model.device, parents=TREE)
        logits.extend(forward(model, store, tokens[start : start + 6], step, all_logits=True))
        store.accept(kept)
        position = store.seen
        logits.append(forward(model, store, [tokens[position]], Step((position,), model.device), all_logits=True)[0])
    return logits, watch, store


@contextmanager
def told(policy: AttentionPolicy, answers: Callable[[LayerPlan | None], LayerPlan | None]) -> Iterator[None]:
    """What the policy lays out, as `answers` has it."""
    kind = type(policy)
    own = kind.plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "plan", lambda self, layer: answers(own(self, layer)))
        yield


def both(model: LanguageModel, policy: AttentionPolicy, kv: str | None) -> tuple[Any, Any, list[LayerPlan | None]]:
    """`run` by hooks alone and by plans, and what was laid out."""
    with told(policy, lambda plan: None):
        hooked = run(model, policy, kv)
    plans: list[LayerPlan | None] = []
    with told(policy, lambda plan: plans.append(plan) or plan):
        return hooked, run(model, policy, kv), plans


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kv", [None, "int8"])
def test_a_plan_does_what_the_hooks_do(packed: LanguageModel, spec: str, kv: str | None) -> None:
    (expected, hooked, one), (found, watch, other), plans = both(packed, registry.build(spec, AttentionPolicy, "x"), kv)
    decoded = (8 + 2 * len(KEPT)) * len(one.layers)
    assert None not in plans[-decoded:]
    assert watch.found == hooked.found
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert other.pairs() == one.pairs()
    assert any(watch.found) == (spec != "squeezed_attention:sparsity=0,observed=9")


DRAFTED = ("tidal_decode", "token_select", "act_qkv", "hisa", "ice_cache")
"""Those whose layers or passes hand something on."""


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.startswith(DRAFTED)])
def test_a_plan_does_what_the_hooks_do_layer_by_layer(tiny_llama: LanguageModel, spec: str) -> None:
    """A model that is not fused attends between torch's operations, by the same plans."""
    assert tiny_llama.fused is None
    (expected, hooked, one), (found, watch, other), plans = both(
        tiny_llama, registry.build(spec, AttentionPolicy, "x"), None
    )
    assert any(plans)
    assert watch.found == hooked.found
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert other.pairs() == one.pairs()


def read(model: LanguageModel, policy: AttentionPolicy, length: int) -> KVStore:
    store = new_store(model, policy, 0)
    for _ in prefill(model, store, [5 + (i * 41 + length) % 300 for i in range(length)], 64):
        pass
    store.prepare()
    return store


def together(model: LanguageModel, stores: list[KVStore], steps: int) -> list[torch.Tensor]:
    """Passes over several stores: a token of one, a tree of the next, and so on in turns."""
    found = []
    for number in range(steps):
        jobs, kept = [], []
        for i, store in enumerate(stores):
            start = store.seen
            if (number + i) % 2:
                jobs.append(Job(store, [7 + number + i], Step((start,), model.device)))
                kept.append(None)
            else:
                step = Step((start, start + 1, start + 1), model.device, parents=(-1, 0, 0))
                jobs.append(Job(store, [9 + number, 11 + i, 12 + i], step))
                kept.append([0, 2])
        found += forward_many(model, jobs, all_logits=True)
        for store, rows in zip(stores, kept, strict=True):
            if rows is not None:
                store.accept(rows)
    return found


@pytest.mark.parametrize("spec", SPECS[::2])
def test_several_sequences_and_forks_in_one_pass(packed: LanguageModel, spec: str) -> None:
    """Stores of different lengths, one of them dense, and a fork that goes another way."""

    def passes() -> tuple[list[torch.Tensor], list[dict[str, int]]]:
        policy = registry.build(spec, AttentionPolicy, "x")
        first, second = read(packed, policy, 45), read(packed, policy, 60)
        dense = read(packed, registry.build("dense", AttentionPolicy, "x"), 50)
        found = together(packed, [first, dense, second], 3)
        branch = second.fork()
        found += together(packed, [branch, first, second], 4)
        return found, [store.pairs() for store in (first, second, branch, dense)]

    kind = registry.build(spec, AttentionPolicy, "x")
    with told(kind, lambda plan: None):
        expected, pairs = passes()
    found, others = passes()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert others == pairs


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("squeezed")][::3])
def test_what_is_rewound_is_chosen_anew(packed: LanguageModel, spec: str) -> None:
    """Indexes forget what is taken back: afterwards as a store that never had it."""
    policy = registry.build(spec, AttentionPolicy, "x")
    tokens = [5 + (i * 29) % 300 for i in range(80)]

    def more(store: KVStore) -> torch.Tensor:
        rows = [forward(packed, store, [t], Step((store.seen,), packed.device), True)[0] for t in tokens[60:70]]
        return torch.stack(rows)

    fresh = new_store(packed, policy, 0)
    for _ in prefill(packed, fresh, tokens[:60], 64):
        pass
    store = new_store(packed, policy, 0)
    for _ in prefill(packed, store, tokens[:60] + tokens[5:19], 64):
        pass
    for token in tokens[:5]:
        forward(packed, store, [token], Step((store.seen,), packed.device), True)
    assert store.rewind(60) == 60
    for layer in store.layers:
        layer.carry = {}  # of a token that is taken back; the engine opens a new store for a prefix
    torch.testing.assert_close(more(store), more(fresh), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "spec", ["quest:page=4", "tidal_decode:layers=[0]", "token_select:prompt=false", "misa:active=2"]
)
def test_a_full_budget_is_dense(packed: LanguageModel, spec: str) -> None:
    name, _, options = spec.partition(":")
    policy = registry.build(f"{name}:budget=500,sink=3,local=6,{options}", AttentionPolicy, "x")
    found, _, store = run(packed, policy, None)
    expected, _, _ = run(packed, registry.build("dense", AttentionPolicy, "x"), None)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert store.pairs()["attended"] == store.pairs()["attendable"]


def test_pages_read_of_a_mapped_store_are_counted(packed: LanguageModel, tmp_path: Any) -> None:
    """With plans as with hooks, also where a policy moves slots and has to be asked."""
    for spec in (f"quest:{SIZES}", f"tidal_decode:{SIZES},layers=[0]", f"ice_cache:{SIZES},page=3,batch=12"):
        policy = registry.build(spec, AttentionPolicy, "x")
        counts = []
        for answers in (lambda plan: None, lambda plan: plan):
            memory = MappedMemory(tmp_path)
            store = new_store(packed, policy, 100, None, None, memory)
            with told(policy, answers):
                for _ in prefill(packed, store, list(range(5, 65)), 64):
                    pass
                for token in range(70, 76):
                    forward(packed, store, [token], Step((store.seen,), packed.device), True)
            counts.append((store.mapping()["pages_read"], store.pairs()))
        assert counts[0] == counts[1]


def test_bad_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="map 'odd'"):
        Index(scale=1.0, map="odd")
    with pytest.raises(ValueError, match="needs a table"):
        Index(scale=1.0, map="product")
    with pytest.raises(ValueError, match="keys of their own"):
        Index(scale=1.0, page=4)
    with pytest.raises(ValueError, match="whole pages"):
        Index(scale=1.0, token_pages=(3, 10))
    with pytest.raises(ValueError, match="reduce 'least'"):
        Index(scale=1.0, reduce="least")
