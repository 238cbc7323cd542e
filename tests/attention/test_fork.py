"""Forked stores: the same continuation as the one they came from, whatever happens to the other."""

from __future__ import annotations

import pytest
import torch

from tests.attention.test_attend import some_tokens, step_at
from tests.attention.test_ragged import VARIANTS, Ragged, filled, shared
from tokloom.engine.forward import forward
from tokloom.kv.store import KVStore, Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.h2o import H2O

POLICIES = [Dense(), Ragged(), H2O(budget=24, interval=4)]


def go_on(kind: str, store: KVStore, seed: int, tokens: int = 10) -> torch.Tensor:
    model, first = shared(kind), store.seen
    text = some_tokens(model, tokens, seed)
    logits = [forward(model, store, [t], step_at(model, first + i), all_logits=True)[0] for i, t in enumerate(text)]
    return torch.stack(logits)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("policy", POLICIES, ids=["dense", "ragged", "h2o"])
@pytest.mark.parametrize("kv", [None, "int8", "int4"])
def test_forks_do_not_see_each_other(kind: str, policy: object, kv: str | None) -> None:
    store = filled(kind, kv, policy)  # type: ignore[arg-type]
    forks = [store.fork() for _ in range(2)]
    go_on(kind, forks[0], seed=8)
    step = Step((100, 101, 101), torch.device("cpu"), parents=(-1, 0, 0))
    forward(shared(kind), forks[1], [3, 4, 5], step, all_logits=True)
    forks[1].accept([0, 2])
    found = go_on(kind, store, seed=9)
    expected = go_on(kind, filled(kind, kv, policy), seed=9)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    later = forks[0].fork()
    assert torch.equal(go_on(kind, later, seed=3), go_on(kind, forks[0], seed=3))
    assert later.slots() == forks[0].slots()


def test_nothing_is_copied_before_it_is_written() -> None:
    store = filled(policy=Dense())
    for layer in store.layers:
        layer.slots.resize(110)
    fork = store.fork()
    places = [s.layers[0].slots.core_arguments["keys"] for s in (store, fork)]
    assert places[0] == places[1]
    go_on("core", fork, seed=1, tokens=1)
    assert store.layers[0].slots.core_arguments["keys"] == places[0]
    assert fork.layers[0].slots.core_arguments["keys"] != places[0]
    go_on("core", store, seed=1, tokens=1)  # the last one that has it writes in place
    assert store.layers[0].slots.core_arguments["keys"] == places[0]
    assert store.pairs()["attended"] > fork.pairs()["attended"] > 0


def test_a_tree_that_waits_is_not_forked() -> None:
    store = filled()
    forward(shared("core"), store, [3, 4], Step((100, 101), torch.device("cpu"), parents=(-1, 0)), all_logits=True)
    with pytest.raises(RuntimeError, match="acceptance"):
        store.fork()
