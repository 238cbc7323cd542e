"""The `merge` hook: what is kept gets the keys and values that the policy returns, however slots are stored."""

from __future__ import annotations

import pytest
import torch

from tests.attention.test_attend import some_tokens, step_at
from tests.attention.test_ragged import Ragged, filled, shared
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVLayer


class Averaging(Ragged):
    """Every kept slot becomes the mean of itself and the slot before it."""

    def merge(self, layer: KVLayer, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked = (layer.keys.clone(), layer.values.clone(), keep)
        index = keep.clamp_min(0)[..., None].expand(*keep.shape, layer.keys.shape[-1])
        before = (index - 1).clamp_min(0)
        return tuple((x.gather(2, index) + x.gather(2, before)) / 2 for x in (layer.keys, layer.values))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["core", "modules", "torch"])
@pytest.mark.parametrize(("kv", "close"), [(None, 1e-6), ("bf16", 0.01), ("int8", 0.02), ("int4", 0.15)])
@pytest.mark.parametrize("seed", [0, 1])
def test_kept_slots_hold_what_merge_gave(kind: str, kv: str | None, close: float, seed: int) -> None:
    policy = Averaging(seed)
    layer = filled(kind, kv, policy).layers[-1]  # the last that the policy saw
    keys, values, keep = policy.asked
    keep = keep[..., -layer.count :]
    assert (layer.positions >= 0).equal(keep >= 0)
    for head, row in enumerate(keep[0].tolist()):
        for slot, old in enumerate(row):
            for before, now in ((keys, layer.keys), (values, layer.values)):
                expected = (before[0, head, old] + before[0, head, max(old - 1, 0)]) / 2 if old >= 0 else 0.0
                expected = torch.as_tensor(expected, dtype=now.dtype).expand_as(now[0, head, slot])
                assert (now[0, head, slot] - expected).abs().max() <= close * max(1.0, float(expected.abs().max()))


def test_merged_values_are_attended_to() -> None:
    """Values of zero: the logits are those of a store whose values are zero, whichever path attends."""

    class Forgetting(Ragged):
        def merge(self, layer: KVLayer, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            width = layer.keys.shape[-1]
            index = keep.clamp_min(0)[..., None].expand(*keep.shape, width)
            return layer.keys.gather(2, index), torch.zeros(*keep.shape, width, dtype=layer.keys.dtype)

    found = []
    for kind in ("core", "modules", "torch"):
        model = shared(kind)
        store = new_store(model, Forgetting(), 0)
        for _ in prefill(model, store, some_tokens(model, 40), 64):
            pass
        found.append(forward(model, store, [9], step_at(model, 40), all_logits=True)[0].double())
        plain = forward(model, filled(kind), [9], step_at(model, 100), all_logits=True)[0].double()
        assert not torch.allclose(found[-1], plain, atol=1e-3)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=1e-4)
