"""Keys and values of one layer: preallocated slots with text positions, and what a policy does to them.

Every slot carries its text position, so that causality, eviction and draft trees are one rule: a
query sees a slot iff the slot's position is not after its own (and inside the layer's window, and,
for the slots of a draft tree, the slot is its ancestor).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from tokloom._core import KVBuffer
from tokloom.attention.stage import AttentionPolicy
from tokloom.attention.step import Step

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
"""How keys and values may be stored. int8 has one scale for each slot of a KV head."""
STORED = {dtype: name for name, dtype in PRECISIONS.items()}
"""The names of these, by what the tensors are."""


Watcher = Callable[["KVLayer", torch.Tensor | None], None]
"""Is told, once a layer and pass, what `AttentionPolicy.select` chose, before the policy observes and evicts."""


@dataclass
class Tally:
    """Counts of one layer, summed over its passes. A pair is one query row against one slot of one KV head."""

    attended: int = 0
    attendable: int = 0
    """Pairs that causal attention without a policy would have computed."""
    evicted: int = 0
    peak_bytes: int = 0


class KVLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer. Slots [0, count) are in use; a slot stays where it is until eviction."""

    is_sliding = False

    def __init__(self, index: int, policy: AttentionPolicy, limit: int, precision: str | None = None) -> None:
        # CacheLayerMixin.__init__ would assign to keys and values, which are views here.
        self.is_initialized = False
        self.index, self.policy, self.limit, self.precision = index, policy, limit, precision
        self.count = 0
        self.seen = 0
        self.window: int | None = None
        self.step: Step
        self.carry: dict[str, torch.Tensor] = {}
        """(batch, ...) of the last accepted token."""
        self.carried: dict[str, torch.Tensor] = {}
        """(batch, rows, ...) of this pass; `settle` takes the last accepted row over into `carry`."""
        self.notes: dict[str, Any] = {}
        """What the policy keeps of this layer beside its slots (an index, say), by name: tensors, or objects with
        `fork()`, `rewind(slots)` and `bytes`. Only accepted slots may have gone in."""
        self.calibration: dict[str, torch.Tensor] = {}
        """What the policy's `calibrate` found for this layer; shared by all requests, not to be written to."""
        self.watch: Watcher | None = None
        self.tally = Tally()
        self._memory: dict[str, torch.Tensor] = {}
        self._scales: tuple[torch.Tensor, ...] = ()  # int8: of keys and of values, (batch, kv_heads, capacity)
        self._pending: tuple[torch.Tensor | None, torch.Tensor | None] | None = None
        self.core: KVBuffer | None = None
        """The buffers as the C++ core sees them; None where it can't serve them (a batch, another device)."""

    # --- transformers' side

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, width = key_states.shape
        self.allocate(batch, heads, width, value_states.shape[-1], key_states.dtype, key_states.device)

    def allocate(
        self, batch: int, heads: int, width: int, value_width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Empty buffers; `dtype` is what the model computes in, and what is stored unless `precision` is given."""
        self.dtype, self.device = dtype, device
        stored = dtype if self.precision is None else PRECISIONS[self.precision]
        self._keys = torch.empty((batch, heads, 0, width), dtype=stored, device=device)
        self._values = torch.empty((batch, heads, 0, value_width), dtype=stored, device=device)
        self._positions = torch.empty((batch, heads, 0), dtype=torch.int32, device=device)
        if stored == torch.int8:
            self._scales = tuple(torch.empty((batch, heads, 0), device=device) for _ in range(2))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends the keys and values of this pass, (batch, kv_heads, rows, head_dim); returns all in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.reserve(key_states.shape[2])
        for held, new, which in ((self._keys, key_states, 0), (self._values, value_states, 1)):
            if self._scales:
                scale = new.float().abs().amax(-1) / 127
                levels = new.float() / scale.clamp_min(1e-30)[..., None]
                self._scales[which][:, :, start : self.count] = scale
                new = levels.round()
            held[:, :, start : self.count] = new
        self._positions[:, :, start : self.count] = self.step.position_ids
        return self.keys, self.values

    def reserve(self, rows: int) -> int:
        """Takes `rows` slots into use and returns the first; the caller fills in keys, values and positions."""
        start = self.count
        self._ensure(start + rows)
        for memory in self._memory.values():
            memory[:, :, start : start + rows] = 0
        self.count = start + rows
        return start

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    # --- the policy's side

    @property
    def keys(self) -> torch.Tensor:  # type: ignore[override]
        """(batch, kv_heads, slots, head_dim) in the model's dtype; a view, a copy if stored in another precision."""
        return self._read(self._keys, 0)

    @property
    def values(self) -> torch.Tensor:  # type: ignore[override]
        """As `keys`."""
        return self._read(self._values, 1)

    def _read(self, held: torch.Tensor, which: int, first: int = 0, last: int | None = None) -> torch.Tensor:
        part = slice(first, self.count if last is None else last)
        used = held[:, :, part]
        if self._scales:
            return (used.float() * self._scales[which][:, :, part, None]).to(self.dtype)
        return used if used.dtype == self.dtype else used.to(self.dtype)

    @property
    def kv_heads(self) -> int:
        return self._keys.shape[1]

    @property
    def positions(self) -> torch.Tensor:
        """(batch, kv_heads, slots) int32, a view."""
        return self._positions[:, :, : self.count]

    @property
    def past(self) -> int:
        """Slots that were there before this pass."""
        return self.count - self.step.rows

    def slot_memory(self, name: str, width: int | None = None) -> torch.Tensor:
        """(batch, kv_heads, slots) float32 of the policy's own, or (batch, kv_heads, slots, width); zero for new slots.

        A view to write to. It moves and leaves with its slots."""
        if name not in self._memory:
            shape = (*self._positions.shape, *(() if width is None else (width,)))
            self._memory[name] = torch.zeros(shape, dtype=torch.float32, device=self.device)
        return self._memory[name][:, :, : self.count]

    def key_range(self, first: int, last: int) -> torch.Tensor:
        """Keys of the slots [first, last), as `keys` has them."""
        return self._read(self._keys, 0, first, last)

    @property
    def bytes(self) -> int:
        """Size of all tensors held, spare slots and the policy's notes included."""
        if not self.is_initialized:
            return 0
        noted = sum(note.nbytes if isinstance(note, torch.Tensor) else note.bytes for note in self.notes.values())
        return noted + sum(t.numel() * t.element_size() for t in self._buffers)

    @property
    def buffers(self) -> tuple[torch.Tensor, ...]:
        """Keys, values (batch, kv_heads, capacity, head_dim) as stored, and what else the store keeps of each slot:
        positions, int8's scales of keys and of values, (batch, kv_heads, capacity)."""
        return (self._keys, self._values, self._positions, *self._scales)

    @property
    def _buffers(self) -> tuple[torch.Tensor, ...]:
        return (*self.buffers, *self._memory.values())

    # --- the store's side

    def _ensure(self, slots: int) -> None:
        capacity = self._keys.shape[2]
        if slots <= capacity:
            return
        grown = max(slots, capacity * 3 // 2)
        # Not beyond what the request can fill, and at once to that when it is near.
        if slots <= self.limit <= max(grown, slots * 3 // 2):
            grown = self.limit
        self._resize(grown)

    def _resize(self, capacity: int) -> None:
        def resized(old: torch.Tensor) -> torch.Tensor:
            new = old.new_empty((*old.shape[:2], capacity, *old.shape[3:]))
            new[:, :, : self.count] = old[:, :, : self.count]
            return new

        self._keys, self._values, self._positions = map(resized, (self._keys, self._values, self._positions))
        self._scales = tuple(resized(scales) for scales in self._scales)
        self._memory = {name: resized(memory) for name, memory in self._memory.items()}
        self.core = self._as_core_sees()
        self.tally.peak_bytes = max(self.tally.peak_bytes, self.bytes)

    def _as_core_sees(self) -> KVBuffer | None:
        batch, heads, capacity, width = self._keys.shape
        name = STORED.get(self._keys.dtype)
        if self.device.type != "cpu" or batch != 1 or name is None or self._values.shape[-1] != width:
            return None
        scales = [t.data_ptr() for t in self._scales] or [0, 0]
        return KVBuffer(
            keys=self._keys.data_ptr(), values=self._values.data_ptr(), key_scales=scales[0], value_scales=scales[1],
            positions=self._positions.data_ptr(), kv_heads=heads, capacity=capacity, head_dim=width, storage=name,
        )  # fmt: skip

    def shrink(self, spare: int) -> None:
        """Gives back slots beyond `spare` free ones, if that is a good part of the buffer."""
        if self._keys.shape[2] > (self.count + spare) * 5 // 4:
            self._resize(self.count + spare)

    def hold(self, queries: torch.Tensor | None, weights: torch.Tensor | None) -> None:
        """Ends this layer's attention: a tree waits for acceptance, anything else is settled at once.

        queries: None if the policy has no hooks that want them."""
        self._pending = (queries, weights)
        if self.step.parents is None:
            self.settle(range(self.step.rows))

    def settle(self, accepted: range | list[int]) -> None:
        """Keeps the accepted rows of the pass, drops the others, lets the policy observe and evict."""
        if self._pending is None:
            return
        (queries, weights), self._pending = self._pending, None
        start, rows = self.past, len(accepted)
        whole = rows == self.step.rows
        if not whole:
            chosen = torch.as_tensor(accepted, dtype=torch.long, device=self.device)
            if queries is not None:
                queries = queries[:, :, chosen]
            if weights is not None:
                columns = torch.cat([torch.arange(start, device=self.device), start + chosen])
                weights = weights[:, :, chosen][..., columns]
            for buffer in self._buffers:
                buffer[:, :, start : start + rows] = buffer[:, :, start + chosen]
            self.count = start + rows
        self.seen += rows
        if rows:
            self.carry = {name: value[:, accepted[-1]] for name, value in self.carried.items()} or self.carry
        self.carried = {}
        if self.window is not None:
            self._leave_window(self.window)
            return
        if queries is None:
            return
        self.policy.observe(self, queries, weights)
        if self.step.prompt or self.policy.room(self.seen - rows) <= rows:
            self._apply(self.policy.evict(self))

    def can_rewind(self, seen: int) -> bool:
        """Whether all that a query after the first `seen` tokens may see is still held."""
        if self.count == self.seen or seen == 0:
            return True
        return self.window is not None and int(self.positions[0, 0, 0]) <= max(0, seen - self.window)

    def rewind(self, seen: int) -> None:
        """Drops the slots of all tokens but the first `seen`."""
        self.count = max(0, self.count - (self.seen - seen))
        self.seen = seen
        for note in self.notes.values():
            if not isinstance(note, torch.Tensor):
                note.rewind(self.count)

    def _leave_window(self, window: int) -> None:
        """Drops slots that no later query of a sliding-window layer can see; now and then, to copy less."""
        if self.count > window + max(window // 2, 64):
            drop = self.count - window
            for buffer in self._buffers:
                buffer[:, :, :window] = buffer[:, :, drop : self.count].clone()
            self.count = window
            self.tally.evicted += drop

    def _apply(self, keep: torch.Tensor | None) -> None:
        if keep is None:
            return
        kept = keep.shape[2]
        for buffer in self._buffers:
            index = keep if buffer.dim() == 3 else keep[..., None].expand(*keep.shape, buffer.shape[-1])
            buffer[:, :, :kept] = buffer[:, :, : self.count].gather(2, index)
        self.tally.evicted += self.count - kept
        self.count = kept
