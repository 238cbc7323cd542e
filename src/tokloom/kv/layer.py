"""Keys and values of one layer: slots with text positions, and what a policy does to them.

Every slot carries its text position, so that causality, eviction and draft trees are one rule: a
query sees a slot iff the slot's position is not after its own (and inside the layer's window, and,
for the slots of a draft tree, the slot is its ancestor). Holes are seen by no query.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from tokloom._core import KVBuffer
from tokloom.kv.keeper import UNLIMITED, Keeper
from tokloom.kv.mapped_memory import MappedMemory
from tokloom.kv.precision import PRECISIONS, Plain
from tokloom.kv.slots import Slots
from tokloom.kv.step import Step

Watcher = Callable[["KVLayer", torch.Tensor | None], None]
"""Is told, once a layer and pass, what `AttentionPolicy.select` chose, before the policy observes and evicts."""


@dataclass
class Tally:
    """Counts of one layer, summed over its passes. A pair is one query row against one slot of one KV head."""

    attended: int = 0
    attendable: int = 0
    """Pairs that causal attention without a policy would have computed."""
    pages: int = 0
    """Pages of mapped memory that were read."""


def grouped_sum(weights: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(batch, heads, rows, slots) summed over the rows and the heads of a KV head's group: (batch, kv_heads, slots)."""
    batch, _, _, slots = weights.shape
    return weights.view(batch, kv_heads, -1, slots).sum(2, dtype=torch.float32)


class KVLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer. Slots [0, count) are in use; a slot stays where it is until eviction."""

    is_sliding = False

    def __init__(
        self,
        index: int,
        policy: Keeper,
        limit: int,
        precision: str | None = None,
        memory: MappedMemory | None = None,
        layers: int = 1,
    ) -> None:
        # CacheLayerMixin.__init__ would assign to keys and values, which are views here.
        self.is_initialized = False
        self.index, self.policy, self.limit, self.precision = index, policy, limit, precision
        self.memory, self.layers = memory, layers
        self.slots: Slots
        """There once `is_initialized`."""
        self.seen = 0
        self.window: int | None = None
        self.step: Step
        self.carry: dict[str, torch.Tensor] = {}
        """(batch, ...) of the last accepted token."""
        self.carried: dict[str, torch.Tensor] = {}
        """(batch, rows, ...) of this pass; `commit` takes the last accepted row over into `carry`."""
        self.notes: dict[str, Any] = {}
        """What the policy keeps of this layer beside its slots (an index, say), by name: tensors, or objects with
        `fork()`, `rewind(slots)` and `bytes`. Only accepted slots may have gone in."""
        self.calibration: dict[str, torch.Tensor] = {}
        """What the policy's `calibrate` found for this layer; shared by all requests, not to be written to."""
        self.trying = False
        """Passes will be taken back: what they see must stay."""
        self.watch: Watcher | None = None
        self.tally = Tally()
        self._pending: tuple[torch.Tensor | None, torch.Tensor | None] | None = None

    # --- transformers' side

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, width = key_states.shape
        self.allocate(batch, heads, width, value_states.shape[-1], key_states.dtype, key_states.device)

    def allocate(
        self, batch: int, heads: int, width: int, value_width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Empty slots; `dtype` is what the model computes in, and what is stored unless `precision` is given."""
        self.dtype, self.device = dtype, device
        precision = Plain(dtype) if self.precision is None else PRECISIONS[self.precision]
        self.slots = Slots((batch, heads), (width, value_width), dtype, device, precision, self.limit, self.memory)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends the keys and values of this pass, (batch, kv_heads, rows, head_dim). What it returns is not read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.reserve()
        self.slots.write(start, key_states, value_states, self.step.position_ids)
        return key_states, value_states

    def reserve(self) -> int:
        """Takes slots for the rows of this pass into use and returns the first."""
        return self.slots.reserve(self.step.rows, self._bound)

    @property
    def _bound(self) -> int:
        """How many slots are left after a pass at most; 0 if there is no bound."""
        if self.window is not None:
            return self.window + self._overhang(self.window)
        max_slots = self.policy.max_slots(self)
        return max_slots if max_slots < UNLIMITED else 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    # --- the policy's side

    @property
    def keys(self) -> torch.Tensor:  # type: ignore[override]
        """(batch, kv_heads, slots, head_dim) in the model's dtype, zero in holes. A view where heads hold equally many
        and nothing has to be converted, else a copy."""
        return self.slots.keys

    @property
    def values(self) -> torch.Tensor:  # type: ignore[override]
        """As `keys`."""
        return self.slots.values

    @property
    def positions(self) -> torch.Tensor:
        """(batch, kv_heads, slots) int32, -1 in holes; a view."""
        return self.slots.positions

    @property
    def holes(self) -> torch.Tensor | None:
        """int64 (batch, kv_heads): how many of a KV head's first slots are holes, because it holds fewer than another
        head; None where all hold as many."""
        return self.slots.holes if self.is_initialized else None

    @property
    def count(self) -> int:
        """Slots in use, the holes of some heads included."""
        return self.slots.count if self.is_initialized else 0

    @property
    def kv_heads(self) -> int:
        return self.slots.heads

    @property
    def width(self) -> int:
        """Of a key."""
        return self.slots.widths[0]

    @property
    def past(self) -> int:
        """Slots that were there before this pass."""
        return self.count - self.step.rows

    def slot_memory(self, name: str, width: int | None = None) -> torch.Tensor:
        """(batch, kv_heads, slots) float32 of the policy's own, or (batch, kv_heads, slots, width); zero for new slots
        and in holes.

        A view to write to. It moves and leaves with its slots."""
        return self.slots.slot_memory(name, width)

    def key_range(self, first: int, last: int) -> torch.Tensor:
        """Keys of the slots [first, last), as `keys` has them."""
        return self.slots.key_range(first, last)

    # --- the store's side

    @property
    def held(self) -> float:
        """Slots held, the mean over KV heads."""
        return self.slots.held if self.is_initialized else 0

    @property
    def bytes(self) -> int:
        """Size of all tensors held, spare slots and the policy's notes included."""
        noted = sum(note.nbytes if isinstance(note, torch.Tensor) else note.bytes for note in self.notes.values())
        return noted + (self.slots.bytes if self.is_initialized else 0)

    @property
    def core(self) -> KVBuffer | None:
        """The slots as the C++ core sees them; None where it can't serve them (a batch, another device)."""
        return self.slots.core

    def shrink(self, spare: int) -> None:
        """Gives back slots beyond `spare` free ones, or beyond what may be left after a pass, if that is a good part of
        the memory."""
        if self._bound:
            spare = min(spare, max(self.policy.max_draft_tokens(self.seen), self._bound - self.count))
        if self.slots.capacity > (self.count + spare) * 5 // 4:
            self.slots.resize(self.count + spare)

    def fork(self) -> KVLayer:
        """The same layer, independent from now on, with counts of its own."""
        if self._pending is not None:
            raise RuntimeError("a store can't be forked while a tree waits for acceptance")
        other = copy(self)
        if self.is_initialized:
            other.slots = self.slots.fork()
        other.carry, other.tally = dict(self.carry), Tally()
        other.notes = {
            name: note.clone() if isinstance(note, torch.Tensor) else note.fork() for name, note in self.notes.items()
        }
        return other

    def set_limit(self, limit: int) -> None:
        """Sets the most slots that will be filled; see `Slots`."""
        self.limit = limit
        if self.is_initialized:
            self.slots.limit = limit

    def finish(self, queries: torch.Tensor | None, weights: torch.Tensor | None) -> None:
        """Ends this layer's attention: a tree waits for acceptance, anything else is settled at once.

        queries: None if the policy has no hooks that want them."""
        self._pending = (queries, weights)
        if self.step.parents is None:
            self.commit(range(self.step.rows))

    def commit(self, accepted: range | list[int]) -> None:
        """Keeps the accepted rows of the pass, drops the others, lets the policy observe and evict."""
        if self._pending is None:
            return
        (queries, weights), self._pending = self._pending, None
        start, rows = self.past, len(accepted)
        if queries is None and weights is None and rows and accepted[-1] == rows - 1:
            self.slots.count = start + rows  # the first rows lie where they belong
        elif rows != self.step.rows:
            chosen = torch.as_tensor(accepted, dtype=torch.long, device=self.device)
            if queries is not None:
                queries = queries[:, :, chosen]
            if weights is not None:
                columns = torch.cat([torch.arange(start, device=self.device), start + chosen])
                weights = weights[:, :, chosen][..., columns]
            self.slots.keep_rows(start, chosen)
        self.seen += rows
        if rows:
            self.carry = {name: value[:, accepted[-1]] for name, value in self.carried.items()} or self.carry
        self.carried = {}
        if self.window is not None:
            self._leave_window(self.window)
            return
        if queries is None:
            return
        if weights is not None and weights.dim() == 4 and "attention_weights" not in self.policy.needs:
            weights = grouped_sum(weights, self.kv_heads)
        self.policy.observe(self, queries, weights)
        if self.step.prompt or self.policy.max_draft_tokens(self.seen - rows) <= rows:
            self._evict()

    def can_rewind(self, seen: int) -> bool:
        """Whether all that a query after the first `seen` tokens may see is still held."""
        if self.count == self.seen or seen == 0:
            return seen == 0 or not self.is_initialized or seen >= self.slots.reordered
        return self.window is not None and int(self.positions[0, 0, 0]) <= max(0, seen - self.window)

    def rewind(self, seen: int) -> None:
        """Drops the slots of all tokens but the first `seen`."""
        extra = max(0, self.seen - seen)  # a layer that was left out of some passes has seen fewer
        if self.is_initialized:
            self.slots.count = max(0, self.count - extra)
            self.slots.reordered = min(self.slots.reordered, self.slots.count)
        self.seen -= extra
        for note in self.notes.values():
            if not isinstance(note, torch.Tensor):
                note.rewind(self.count)

    def can_try(self, rows: int) -> bool:
        """Whether so many tokens can be added and taken back, with nothing lost."""
        return self.window is None or self.count + rows <= self.window + self._overhang(self.window)

    @staticmethod
    def _overhang(window: int) -> int:
        return max(window // 2, 64)

    def _leave_window(self, window: int) -> None:
        """Drops slots that no later query of a sliding-window layer can see; now and then, to copy less."""
        if self.count > window + self._overhang(window) and not self.trying:
            newest = torch.arange(self.count - window, self.count, device=self.device)
            self.slots.keep(newest.expand(*self.positions.shape[:2], window))

    def _evict(self) -> None:
        keep = self.policy.evict(self)
        if keep is None:
            return
        merged = self.policy.merge(self, keep)
        self.slots.keep(keep)
        if merged is not None:
            keys, values = (new[:, :, -self.count :] for new in merged)  # without columns that no head has a slot in
            self.slots.write(0, keys, values, None)
