"""Keys and values in mapped files: the same results, RAM only for what is touched, nothing left on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.attention.test_attend import some_tokens, step_at
from tests.attention.test_ragged import Ragged, shared
from tests.engine.test_together import POLICIES, PROMPTS
from tokloom import Engine, Sampling
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.errors import ArgumentError
from tokloom.kv.layer import KVLayer
from tokloom.kv.mapped_memory import PAGE, MappedMemory
from tokloom.kv.store import KVStore
from tokloom.methods.attention.dense import Dense


@pytest.mark.parametrize(
    ("kind", "name", "kv"),
    [("core", name, None) for name in sorted(POLICIES)] + [("modules", "ragged", "int4"), ("sliding", "h2o", "int8")],
)
def test_the_text_is_the_same(kind: str, name: str, kv: str | None, tmp_path: Path) -> None:
    model, sampling = shared(kind), Sampling(max_new_tokens=12)
    plain = Engine(model, attention=POLICIES[name], kv=kv)
    mapped = Engine(model, attention=POLICIES[name], kv=kv, offload=tmp_path)
    expected, found = (engine.generate(PROMPTS[0], sampling=sampling) for engine in (plain, mapped))
    assert found.tokens == expected.tokens
    row = found.ledger.row("attention")
    assert row.kv_bytes >= expected.ledger.row("attention").kv_bytes, "each head has whole pages"
    assert 0 < row.counts["mapped_bytes"] < row.kv_bytes
    assert row.counts["pages_read"] > 0
    assert row.counts["bytes_read"] == row.counts["pages_read"] * PAGE
    assert list(tmp_path.iterdir()) == []
    again = mapped.generate_many(PROMPTS, sampling=sampling)
    assert [r.tokens for r in again] == [r.tokens for r in plain.generate_many(PROMPTS, sampling=sampling)]


def test_only_touched_pages_are_resident(tmp_path: Path) -> None:
    memory = MappedMemory(tmp_path)
    tensor = memory.empty((100, PAGE), torch.uint8)
    tensor.fill_(7)
    assert memory.bytes == memory.resident_bytes == 100 * PAGE
    memory.tidy()
    assert memory.resident_bytes == 0
    assert int(tensor[50, 5]) == 7
    assert 0 < memory.resident_bytes <= 32 * PAGE  # the system maps some neighbours too
    assert bool((tensor == 7).all())
    kept = MappedMemory(tmp_path, resident=200 * PAGE)
    kept.empty((100, PAGE), torch.uint8).fill_(1)
    kept.tidy()
    del tensor
    assert memory.bytes == 0


class Few(AttentionPolicy):
    """Attends to the first two slots and the own ones."""

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        return None if layer.step.prompt else torch.tensor([0, 1, -1]).view(1, 1, 1, 3)


def long_store(policy: AttentionPolicy, directory: Path) -> KVStore:
    model = shared("core")
    store = new_store(model, policy, 0, memory=MappedMemory(directory))
    for _ in prefill(model, store, some_tokens(model, 900), 300):
        pass
    before = store.mapping()["pages_read"]
    forward(model, store, [9], step_at(model, 900), all_logits=True)
    store.read = store.mapping()["pages_read"] - before  # type: ignore[attr-defined]
    return store


def test_pages_are_counted_slot_by_slot(tmp_path: Path) -> None:
    dense, few = long_store(Dense(), tmp_path), long_store(Few(), tmp_path)
    layers, heads, row = len(dense.layers), 2, 64  # bytes of 16 floats
    capacity = dense.layers[0].slots.capacity
    per_layer = {h * capacity * row // PAGE for h in range(heads)}
    touched = set()
    for head in range(heads):
        touched |= set(range(head * capacity * row // PAGE, ((head * capacity + 901) * row - 1) // PAGE + 1))
    assert dense.read == layers * 2 * len(touched)  # type: ignore[attr-defined]
    assert few.read == layers * 2 * len(per_layer)  # type: ignore[attr-defined]
    ragged = long_store(Ragged(), tmp_path)
    assert 0 < ragged.read < dense.read  # type: ignore[attr-defined]


def test_nothing_is_left_when_the_process_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, torch
from tokloom.kv.mapped_memory import MappedMemory
MappedMemory({str(tmp_path)!r}).empty((1000,), torch.float32).fill_(1)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"offload=.*missing"):
        Engine(shared("core"), offload=tmp_path / "missing")
