"""What is laid out for the core against the hooks it stands for: the same slots, logits, tallies and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests import tiny_models
from tokloom import registry
from tokloom._core import LayerPlan
from tokloom.attention.kv_store import KVStore, Step
from tokloom.attention.stage import AttentionPolicy
from tokloom.attention.trace import Trace
from tokloom.engine.forward import Job, forward, forward_many, new_store, prefill
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
