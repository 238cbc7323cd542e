"""The engine's KV cache: one `KVLayer` a layer, plugged into transformers' Cache and driven pass by pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from tokloom.errors import CompositionError, UnsupportedModelError
from tokloom.kv.keeper import Keeper
from tokloom.kv.layer import KVLayer, Watcher
from tokloom.kv.mapped_memory import PAGE, MappedMemory
from tokloom.kv.precision import PRECISIONS
from tokloom.kv.step import Step

__all__ = ["PRECISIONS", "KVLayer", "KVStore", "Step", "StoreGroup"]


class KVStore(Cache):
    """The cache of one request: one `KVLayer` a layer, driven by the engine pass by pass.

    limit: the most slots that the request can fill, 0 if unknown; spares memory, more still fit.
    memory: where keys and values lie; None is RAM.
    precision: of the stored keys and values, one of `PRECISIONS`; None is what the model computes in.
    calibration: what the policy's `calibrate` found, one entry a layer; may be left out.
    watch: is told what is attended to; see `Trace`.

    Protocol: `begin(step)`, the model's forward pass, then `accept(rows)` if the step was a tree.
    """

    layers: list[KVLayer]  # type: ignore[assignment]

    def __init__(
        self,
        layers: int,
        policy: Keeper,
        limit: int = 0,
        precision: str | None = None,
        calibration: Sequence[dict[str, torch.Tensor]] = (),
        watch: Watcher | None = None,
        memory: MappedMemory | None = None,
    ) -> None:
        self.policy, self.watch, self.memory = policy, watch, memory
        super().__init__(layers=[KVLayer(i, policy, limit, precision, memory, layers) for i in range(layers)])
        self._tried: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []
        for layer, found in zip(self.layers, calibration, strict=False):
            layer.calibration = found
        for layer in self.layers:
            layer.watch = watch

    @property
    def stores(self) -> Sequence[KVStore]:
        """Whose rows a pass over this cache has, in order: its own."""
        return (self,)

    def fork(self) -> KVStore:
        """An independent store in the same state, with counts of its own; what is shared is copied when either store
        writes. Raises RuntimeError while a tree waits for acceptance."""
        other = KVStore(len(self.layers), self.policy, self.layers[0].limit, watch=self.watch, memory=self.memory)
        other.layers = [layer.fork() for layer in self.layers]
        return other

    def resume(self, other: KVStore, limit: int) -> None:
        """Takes the state of another store, which goes on independently; limit: as of a new store."""
        self.layers = [layer.fork() for layer in other.layers]
        for layer in self.layers:
            layer.set_limit(limit)
            layer.watch = self.watch

    @property
    def seen(self) -> int:
        """Tokens that went through the model: prompt and accepted output."""
        return self.layers[0].seen

    def begin(self, step: Step) -> None:
        """Announces the next pass to all layers."""
        self.step = step
        if self.memory is not None:
            self.memory.tidy()
        for layer in self.layers:
            layer.step = step

    @torch.inference_mode()
    def accept(self, rows: list[int]) -> None:
        """Settles a tree: `rows`, from the root down one path, become part of the text."""
        if self.step.parents is None:  # settled layer by layer
            return
        for layer in self.layers:
            layer.commit(rows)

    def rewind(self, seen: int) -> int:
        """Takes back all but the first `seen` tokens, or all of them where a layer no longer holds what those that
        follow may see. Returns how many are left.

        Raises CompositionError if the policy observes or evicts: what it learned can't be taken back."""
        if not self.policy.rewinds:
            raise CompositionError(self.policy.name, "a rewound KV store", "it observes or evicts")
        left = seen if all(layer.can_rewind(seen) for layer in self.layers) else 0
        for layer in self.layers:
            layer.rewind(left)
        return left

    def can_try(self, rows: int) -> bool:
        """Whether passes of so many tokens in all can be taken back by `rewind`."""
        return self.policy.plain and all(layer.can_try(rows) for layer in self.layers)

    @contextmanager
    def trying(self, policy: Keeper, calibration: Sequence[dict[str, torch.Tensor]] = ()) -> Iterator[None]:
        """Passes of one token in here go by another policy, and are taken back at the end.

        What that policy keeps of a layer stays for the next time. Both policies must be able to rewind."""
        seen, own = self.seen, self.policy
        held = [(layer.notes, layer.calibration, layer.carry, copy(layer.tally)) for layer in self.layers]
        for layer, (notes, carry) in zip(self.layers, self._tried, strict=False):
            layer.notes, layer.carry = notes, carry
        if not self._tried:
            for layer in self.layers:
                layer.notes, layer.carry = {}, {}
        for index, layer in enumerate(self.layers):
            layer.policy, layer.trying = policy, True
            layer.calibration = calibration[index] if calibration else {}
        self.policy = policy
        try:
            yield
        finally:
            for layer in self.layers:
                layer.rewind(seen)
            self._tried = [(layer.notes, layer.carry) for layer in self.layers]
            for layer, kept in zip(self.layers, held, strict=True):
                layer.policy, layer.trying = own, False
                layer.notes, layer.calibration, layer.carry, layer.tally = kept
            self.policy = own

    def max_draft_tokens(self) -> int:
        """Tokens that the next pass may add; see `AttentionPolicy.max_draft_tokens`."""
        return max(1, self.policy.max_draft_tokens(self.seen))

    @torch.inference_mode()
    def shrink(self, spare: int) -> None:
        """Gives spare memory back after the prompt."""
        for layer in self.layers:
            layer.shrink(spare)

    @torch.inference_mode()
    def prepare(self) -> None:
        """Tells the policy that the prompt, or a prefix that will be used again, has been read."""
        for layer in self.layers:
            if layer.window is None:
                self.policy.prepare(layer)

    def check_attended(self, name: str) -> None:
        """Raises UnsupportedModelError if a layer did not go through tokloom's attention function."""
        for layer in self.layers:
            if layer.is_initialized and layer.tally.attendable == 0:
                raise UnsupportedModelError(
                    f"{name}: layer {layer.index} does not call transformers' attention interface, so that tokloom's "
                    "KV store can't serve it. Use a model whose attention is registered there (Llama, Gemma, Qwen, "
                    "Mistral, ... types)."
                )

    @property
    def bytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def peak_bytes(self) -> int:
        """The most that was held at the end of a growth step, layer by layer."""
        return sum(layer.slots.peak_bytes for layer in self.layers if layer.is_initialized)

    def slots(self) -> dict[str, int]:
        """Tokens seen, slots held and slots evicted; the last two as the mean of layers and KV heads."""
        held = round(sum(layer.held for layer in self.layers) / len(self.layers))
        return {"seen": self.seen, "held": held, "evicted": self.seen - held}

    def pairs(self) -> dict[str, int]:
        """Pairs of a query row and a slot of a KV head, over all layers: attended, and what dense attention would."""
        return {
            "attended": sum(layer.tally.attended for layer in self.layers),
            "attendable": sum(layer.tally.attendable for layer in self.layers),
        }

    def mapping(self) -> dict[str, int]:
        """Of a store in mapped files: bytes mapped, those in RAM now, pages and bytes read so far. Else empty."""
        if self.memory is None:
            return {}
        pages = sum(layer.tally.pages for layer in self.layers)
        return {
            "mapped_bytes": self.memory.bytes,
            "resident_bytes": self.memory.resident_bytes,
            "pages_read": pages,
            "bytes_read": pages * PAGE,
        }


class StoreGroup(Cache):
    """Several stores in one pass of transformers' modules: each takes, and attends with, its own rows."""

    def __init__(self, stores: Sequence[KVStore]) -> None:
        self.stores = stores
        layers = zip(*(store.layers for store in stores), strict=True)
        super().__init__(layers=[LayerGroup(list(each)) for each in layers])


class LayerGroup(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of a `StoreGroup`."""

    is_sliding = False

    def __init__(self, layers: list[KVLayer]) -> None:
        self.is_initialized = True
        self.layers = layers

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Each layer does that itself."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = [layer.step.rows for layer in self.layers]
        for layer, keys, values in zip(
            self.layers, torch.split(key_states, sizes, 2), torch.split(value_states, sizes, 2), strict=True
        ):
            layer.update(keys, values)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return max(layer.seen for layer in self.layers)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1
