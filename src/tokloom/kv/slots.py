"""The memory of one layer's slots.

Slots are numbered alike for all KV heads, from 0 to `count`, the newest at the end. Heads may hold different numbers of
them: a head that holds fewer has holes, the first numbers, which stand for nothing. What a head holds lies in one piece
with a gap behind it for what comes, and the pieces follow each other, so that memory is the sum of what the heads hold.
Where no head has holes this is a plain tensor (batch, kv_heads, capacity, ...).
"""

from __future__ import annotations

from math import gcd, prod
from typing import Any
from weakref import WeakSet

import torch

from tokloom._core import KVBuffer
from tokloom.kv.mapped_memory import PAGE, MappedMemory
from tokloom.kv.precision import Precision

EMPTY = -1
"""Position of a hole."""


class Slots:
    """Keys, values, text positions and the policy's memory of each slot.

    dtype: what keys and values are read as; `precision` is how they are stored.
    limit: the most slots that will be filled, 0 if unknown; spares memory, more still fit.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        widths: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        precision: Precision,
        limit: int,
        memory: MappedMemory | None = None,
    ) -> None:
        self.batch, self.heads = shape
        self.widths, self.dtype, self.device, self.precision, self.limit = widths, dtype, device, precision, limit
        self.mapped = memory
        """Where keys and values lie; None: in RAM."""
        self.count = self.capacity = self.peak_bytes = 0
        self.reordered = 0
        """Slots before this one are not in the order of the text."""
        self.holes: torch.Tensor | None = None
        """int64 (batch, kv_heads): how many of the first numbers are holes; None if there are none."""
        self.core: KVBuffer | None = None
        """The memory as the C++ core sees it; None where it can't serve it (a batch, another device)."""
        self.core_arguments: dict[str, Any] = {}
        """What the core's attention takes of it."""
        self.memory: dict[str, torch.Tensor] = {}
        self._positions = torch.empty((*shape, 0), dtype=torch.int32, device=device)
        self._sharers: WeakSet[Slots] = WeakSet([self])
        """Who has the same keys and values, because one was forked from the other; who writes first copies."""
        self._centres = torch.zeros((*shape, widths[0]), device=device) if precision.centred else None
        """What was taken off all keys before they were stored, float32 (batch, kv_heads, head_dim)."""
        self._lay_out(0, None)

    # --- reading

    @property
    def keys(self) -> torch.Tensor:
        """(batch, kv_heads, count, head_dim) in `dtype`, zero in holes; a view where they are stored like that."""
        return self.key_range(0, self.count)

    def key_range(self, first: int, last: int) -> torch.Tensor:
        """The keys of slots [first, last)."""
        return self._read(self._keys, self.widths[0], first, last, self._centres)

    @property
    def values(self) -> torch.Tensor:
        """As `keys`."""
        return self._read(self._values, self.widths[1], 0, self.count)

    @property
    def positions(self) -> torch.Tensor:
        """(batch, kv_heads, count) int32, EMPTY in holes; a view."""
        return self._positions[:, :, : self.count]

    @property
    def exists(self) -> torch.Tensor | None:
        """bool (batch, kv_heads, count), false in holes; None if there are none."""
        if self.holes is None:
            return None
        return torch.arange(self.count, device=self.device) >= self.holes[..., None]

    @property
    def held(self) -> float:
        """Slots held, the mean over KV heads."""
        return self.count - (0.0 if self.holes is None else float(self.holes.double().mean()))

    @property
    def bytes(self) -> int:
        """Size of all tensors, spare slots included."""
        tensors = [*self._keys, *self._values, self._positions, *self.memory.values()]
        if self._centres is not None:
            tensors.append(self._centres)
        return sum(t.numel() * t.element_size() for t in tensors)

    def _read(
        self, parts: list[torch.Tensor], width: int, first: int, last: int, centres: torch.Tensor | None = None
    ) -> torch.Tensor:
        exists = self.exists
        if exists is None:
            shape = (self.batch, self.heads, self.capacity)
            used = [part.view(*shape, *part.shape[1:])[:, :, first:last] for part in parts]
            rows = self.precision.decode(used, width, self.dtype)
            return rows if centres is None else (rows + centres[:, :, None]).to(self.dtype)
        places = self._places(first, last).clamp_min(0)
        rows = self.precision.decode([part[places] for part in parts], width, self.dtype)
        rows = rows.view(self.batch, self.heads, -1, width)
        if centres is not None:
            rows = (rows + centres[:, :, None]).to(self.dtype)
        return rows.masked_fill(~exists[:, :, first:last, None], 0)

    # --- writing

    def reserve(self, rows: int, bound: int = 0) -> int:
        """Takes `rows` slots into use and returns the first; the caller fills in keys, values and positions.

        bound: how many will be left after the pass at most, 0 if unknown; as `limit`."""
        start, wanted = self.count, self.count + rows
        if wanted > self.capacity:
            grown = max(wanted, self.capacity * 3 // 2)
            limit = self.limit
            if bound and not wanted <= limit <= bound + rows:
                limit = bound + rows
                if wanted > limit:  # a head holds more than the mean
                    grown = min(grown, wanted * 9 // 8)
            # Not beyond what the request can fill, and at once to that when it is near.
            if wanted <= limit <= max(grown, wanted * 3 // 2):
                grown = limit
            self.resize(grown)
        elif len(self._sharers) > 1:
            self.resize(self.capacity)
        for memory in self.memory.values():
            memory[:, :, start:wanted] = 0
        self.count = wanted
        return start

    def write(self, start: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor | None) -> None:
        """Fills slots from `start` on with (batch, kv_heads, rows, head_dim); holes are passed over. Positions
        (rows,); None leaves them as they are."""
        stop = start + keys.shape[2]
        if self._centres is not None:
            if start == 0 and positions is not None:
                self._centres.copy_(keys.float().mean(2))
            keys = keys.float() - self._centres[:, :, None]
        for parts, new in ((self._keys, keys), (self._values, values)):
            for part, rows in zip(parts, self.precision.encode(new), strict=True):
                if self.holes is None:
                    part.view(self.batch, self.heads, self.capacity, *part.shape[1:])[:, :, start:stop] = rows
                else:
                    exists = torch.arange(start, stop, device=self.device) >= self.holes.view(-1, 1)
                    part[self._places(start, stop)[exists]] = rows.flatten(0, 1)[exists]
        if positions is not None:
            self._positions[:, :, start:stop] = positions

    def slot_memory(self, name: str, width: int | None) -> torch.Tensor:
        """(batch, kv_heads, count) float32, or with a width of its own; zero when new, a view to write to."""
        if name not in self.memory:
            shape = (*self._positions.shape, *(() if width is None else (width,)))
            self.memory[name] = torch.zeros(shape, dtype=torch.float32, device=self.device)
        return self.memory[name][:, :, : self.count]

    def keep_rows(self, start: int, chosen: torch.Tensor) -> None:
        """Of the slots from `start` on only the chosen ones, int64 (rows,), counted from `start`; no holes there."""
        count = start + len(chosen)
        source, target = (self._bases.view(-1, 1) + start + chosen).flatten(), self._places(start, count).flatten()
        for part in (*self._keys, *self._values):
            part[target] = part[source]
        for each in (self._positions, *self.memory.values()):
            each[:, :, start:count] = each[:, :, start + chosen]
        self.count = count

    def keep(self, index: torch.Tensor) -> None:
        """Only the slots that are listed, int64 (batch, kv_heads, kept): -1 for none, at the front, then ascending."""
        holes = (index < 0).sum(-1)
        minimum = int(holes.min())
        index, holes = index[..., minimum:], holes - minimum
        exists = index >= 0
        ragged = bool(holes.any())
        if ragged and not bool((exists[..., 1:] >= exists[..., :-1]).all()):
            raise ValueError("a policy's slots to keep have -1 after a slot: -1 stands at the front of a row")
        source = (self._bases[..., None] + index)[exists]
        kept = [part.index_select(0, source) for part in (*self._keys, *self._values)]
        if ragged or self.holes is not None or len(self._sharers) > 1:
            self._lay_out(self.capacity, holes if ragged else None)
        self.count = index.shape[2]
        target = self._places(0, self.count).view(index.shape)[exists]
        for part, rows in zip((*self._keys, *self._values), kept, strict=True):
            part.index_copy_(0, target, rows)
        for each, empty in ((self._positions, EMPTY), *((memory, 0) for memory in self.memory.values())):
            trailing = (1,) * (each.dim() - 3)
            clamped = index.clamp_min(0).view(*index.shape, *trailing).expand(*index.shape, *each.shape[3:])
            held = each.gather(2, clamped).masked_fill_(~exists.view(*index.shape, *trailing), empty)
            each[:, :, : self.count] = held

    def reorder(self, first: int, order: torch.Tensor) -> None:
        """Puts slots from `first` on, of which no head lacks any, into another order: int64 (batch, kv_heads, n), which
        of them comes where, counted from `first`."""
        if len(self._sharers) > 1:
            self.resize(self.capacity)
        last = first + order.shape[-1]
        source, target = (self._bases[..., None] + first + order).flatten(), self._places(first, last).flatten()
        for part in (*self._keys, *self._values):
            part[target] = part[source]
        for each in (self._positions, *self.memory.values()):
            index = order.view(*order.shape, *(1,) * (each.dim() - 3)).expand(*order.shape, *each.shape[3:])
            each[:, :, first:last] = each[:, :, first:last].gather(2, index)
        self.reordered = max(self.reordered, last)

    def resize(self, capacity: int) -> None:
        """Moves to memory of another size, of its own; in a file to whole pages for each head."""
        if self.mapped is not None:
            unit = PAGE // gcd(PAGE, self._row_bytes)
            capacity = -(-capacity // unit) * unit
        before, bases = (*self._keys, *self._values), self._bases.flatten().tolist()
        self._positions = self._resized(self._positions, capacity)
        self.memory = {name: self._resized(memory, capacity) for name, memory in self.memory.items()}
        self._lay_out(capacity, self.holes)
        starts = [0] * len(bases) if self.holes is None else self.holes.flatten().tolist()
        for old, new in zip(before, (*self._keys, *self._values), strict=True):
            for base, to, first in zip(bases, self._bases.flatten().tolist(), starts, strict=True):
                new[to + first : to + self.count] = old[base + first : base + self.count]

    def fork(self) -> Slots:
        """The same slots, independent from now on: what is written to either does not show in the other."""
        other = object.__new__(Slots)
        other.__dict__.update(self.__dict__)
        other.peak_bytes = self.bytes
        other._positions = self._positions.clone()
        other._centres = None if self._centres is None else self._centres.clone()
        other.memory = {name: memory.clone() for name, memory in self.memory.items()}
        self._sharers.add(other)
        other._see()
        return other

    def _resized(self, old: torch.Tensor, capacity: int) -> torch.Tensor:
        new = old.new_empty((self.batch, self.heads, capacity, *old.shape[3:]))
        new[:, :, : self.count] = old[:, :, : self.count]
        return new

    # --- where slots lie

    def _places(self, start: int, stop: int) -> torch.Tensor:
        """Where slots [start, stop) lie, int64 (batch * kv_heads, slots); those of holes mean nothing."""
        return self._bases.view(-1, 1) + torch.arange(start, stop, device=self.device)

    def _lay_out(self, capacity: int, holes: torch.Tensor | None) -> None:
        """Fresh memory for keys and values: each head has room for slots from its holes to `capacity`."""
        self._sharers.discard(self)
        self._sharers = WeakSet([self])
        self.capacity, self.holes = capacity, holes
        none = torch.zeros((self.batch, self.heads), dtype=torch.long, device=self.device)
        skipped = (none if holes is None else holes).flatten()
        ends = (capacity - skipped).cumsum(0)
        self._bases = (ends - capacity).view(self.batch, self.heads)
        places = self.batch * self.heads * capacity - int(skipped.sum())
        self._keys, self._values = (
            [self._empty((places, *shape), dtype) for shape, dtype in self.precision.parts(width)]
            for width in self.widths
        )
        self._skipped = skipped
        self._see()
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    @property
    def _row_bytes(self) -> int:
        """Of a slot's keys, in the part that has most of them."""
        return max(prod(shape) * dtype.itemsize for shape, dtype in self.precision.parts(self.widths[0]))

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self.mapped is not None:
            return self.mapped.empty(shape, dtype)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pages(self, selected: torch.Tensor | None) -> int:
        """Pages of memory that attention to these slots reads, int64 (batch, kv_heads or 1, rows, chosen) with -1 for
        none; to all slots if None."""
        if selected is None:
            places = self._places(0, self.count)
            exists = self.exists
            places = places.flatten() if exists is None else places[exists.flatten(0, 1)]
        else:
            slots = selected.expand(self.batch, self.heads, *selected.shape[2:])
            minimum = self._skipped.view(self.batch, self.heads, 1, 1)
            places = (slots + self._bases[..., None, None])[slots >= minimum]
        read = 0
        for part in (*self._keys, *self._values):
            size = part.element_size() * part[:1].numel()
            ends = torch.stack([places * size, places * size + size - 1]) // PAGE
            longest = int((ends[1] - ends[0]).max()) if places.numel() else 0
            touched = [torch.minimum(ends[0] + i, ends[1]) for i in range(longest + 1)]
            read += len(torch.unique(torch.cat(touched)))
        return read

    def _see(self) -> None:
        """Tells the core where everything is."""
        self.core, self.core_arguments = None, {}
        if self.device.type != "cpu" or self.batch != 1 or self.precision.core is None or len(set(self.widths)) > 1:
            return
        keys, values = ([part.data_ptr() for part in parts] for parts in (self._keys, self._values))
        self.core_arguments = {
            "keys": keys[0], "values": values[0], "key_scales": keys[1] if len(keys) > 1 else 0,
            "value_scales": values[1] if len(values) > 1 else 0,
            "centres": 0 if self._centres is None else self._centres.data_ptr(),
            "positions": self._positions.data_ptr(), "bases": self._bases.data_ptr(),
            "holes": self._skipped.data_ptr(), "kv_heads": self.heads, "capacity": self.capacity,
            "head_dim": self.widths[0], "storage": self.precision.core,
        }  # fmt: skip
        self.core = KVBuffer(**self.core_arguments)
