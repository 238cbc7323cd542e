"""The attention kernel on torch tensors, and the same written out in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tokloom import _core
from tokloom.kv.precision import PRECISIONS


@dataclass
class Case:
    """queries (heads, rows, width); keys, values (kv_heads, capacity, width) float32, the first `count` used."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    count: int
    positions: torch.Tensor | None = None
    row_positions: torch.Tensor | None = None
    own: torch.Tensor | None = None
    window: int = 0
    softcap: float = 0.0
    index: torch.Tensor | None = None
    scale: float = 0.125
    storage: str = "fp32"
    centres: torch.Tensor | None = None
    """(kv_heads, width), added to every key."""
    holes: torch.Tensor | None = None
    """int64 (kv_heads,): the heads' memory is packed, the last head's first."""

    def packed(self, stored: torch.Tensor) -> torch.Tensor:
        """What exists of (kv_heads, capacity, ...), head after head from the last one on."""
        assert self.holes is not None
        return torch.cat(
            [head[holes:] for head, holes in reversed(list(zip(stored, self.holes.tolist(), strict=True)))]
        )

    def bases(self) -> torch.Tensor:
        assert self.holes is not None
        ends = (self.keys.shape[1] - self.holes).flip(0).cumsum(0).flip(0)
        return ends - self.keys.shape[1]

    def stored(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values as they are stored, and their scales."""
        both = (self.keys.contiguous(), self.values.contiguous())
        kv_heads, capacity, width = self.keys.shape
        if self.storage == "fp32":
            return list(both), []
        if self.storage == "bf16":
            halves = [torch.empty(x.shape, dtype=torch.bfloat16) for x in both]
            for x, to in zip(both, halves, strict=True):
                _core.round_slots(
                    x=x.data_ptr(), kv_heads=kv_heads, rows=capacity, head_dim=width, to=to.data_ptr(),
                    head_stride=capacity * width,
                )  # fmt: skip
            return halves, []
        if self.storage == "int4":
            bytes_ = _core.row_bytes("int4", width)
            groups = [torch.empty((*x.shape[:2], bytes_), dtype=torch.uint8) for x in both]
            for x, to in zip(both, groups, strict=True):
                _core.quantize_groups(
                    x=x.data_ptr(), kv_heads=kv_heads, rows=capacity, head_dim=width, to=to.data_ptr(),
                    head_stride=capacity * bytes_,
                )  # fmt: skip
            return groups, []
        levels = [torch.empty(x.shape, dtype=torch.int8) for x in both]
        scales = [torch.empty(x.shape[:2]) for x in both]
        for x, to, scale in zip(both, levels, scales, strict=True):
            _core.quantize_slots(
                x=x.data_ptr(), kv_heads=kv_heads, rows=capacity, head_dim=width, to=to.data_ptr(),
                head_stride=capacity * width, scales=scale.data_ptr(), scale_stride=capacity,
            )  # fmt: skip
        return levels, scales

    def visible(self) -> torch.Tensor:
        """bool (kv_heads, rows, count): the rule written out."""
        rows, past = self.queries.shape[1], self.count - self.queries.shape[1]
        kv_heads = self.keys.shape[0]
        seen = torch.ones(kv_heads, rows, self.count, dtype=torch.bool)
        seen[:, :, past:] = torch.ones(rows, rows).tril().bool() if self.own is None else self.own
        if self.index is not None:
            chosen = torch.zeros(kv_heads, rows, past + 1, dtype=torch.bool)
            index = self.index.expand(kv_heads, rows, -1)
            chosen.scatter_(2, torch.where(index < 0, past, index), True)
            seen[:, :, :past] &= chosen[:, :, :past]
        if self.window:
            assert self.positions is not None
            assert self.row_positions is not None
            seen &= self.positions[:, None, : self.count] > self.row_positions[:, None] - self.window
        if self.holes is not None:
            seen &= torch.arange(self.count) >= self.holes[:, None, None]
        return seen


def expected(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output (heads, rows, width), weights (heads, rows, count), sums (kv_heads, count) in float64."""
    stored, scales = case.stored()
    heads, rows, width = case.queries.shape
    parts = [[x[:, : case.count], *(s[:, : case.count] for s in scales[i : i + 1])] for i, x in enumerate(stored)]
    keys, values = (PRECISIONS[case.storage].decode(each, width, torch.float64) for each in parts)
    if case.centres is not None:
        keys = keys + case.centres[:, None]
    kv_heads = keys.shape[0]
    queries = case.queries.double().view(kv_heads, heads // kv_heads, rows, width)
    scores = queries @ keys[:, None].transpose(-1, -2) * case.scale
    if case.softcap:
        scores = torch.tanh(scores / case.softcap) * case.softcap
    seen = case.visible()[:, None].expand_as(scores)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    weights = torch.where(seen.any(-1, keepdim=True), weights, 0)
    used = seen.any(2).any(1)[..., None]  # what no row sees counts for nothing, whatever it is
    out = weights @ torch.where(used, values, 0)[:, None]
    return out.flatten(0, 1), weights.flatten(0, 1), weights.sum((1, 2))


def run(
    case: Case, threads: int = 1, weights: bool = False, sums: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """As `expected`, from the kernel; the output is laid out as (rows, heads, width) in memory."""
    stored, scales = case.stored()
    heads, rows, width = case.queries.shape
    kv_heads, capacity, _ = case.keys.shape
    bases = None
    if case.holes is not None:
        stored, scales, bases = [case.packed(x) for x in stored], [case.packed(x) for x in scales], case.bases()
    out = torch.full((rows, heads, width), 7.0)
    probabilities = torch.full((heads, rows, case.count), 7.0) if weights else None
    totals = torch.full((kv_heads, case.count), 7.0) if sums else None
    own = None if case.own is None else case.own.to(torch.uint8).contiguous()
    tensors = {
        "positions": case.positions, "row_positions": case.row_positions, "own": own, "index": case.index,
        "weights": probabilities, "sums": totals, "bases": bases, "holes": case.holes,
        "centres": case.centres,
    }  # fmt: skip
    pointers = {name: 0 if tensor is None else tensor.contiguous().data_ptr() for name, tensor in tensors.items()}
    if scales:
        pointers |= {"key_scales": scales[0].data_ptr(), "value_scales": scales[1].data_ptr()}
    index_heads, index_rows, chosen = (1, 1, -1) if case.index is None else case.index.shape
    _core.attend(
        queries=case.queries.data_ptr(), query_strides=(case.queries.stride(0), case.queries.stride(1)),
        keys=stored[0].data_ptr(), values=stored[1].data_ptr(), out=out.data_ptr(), out_strides=(width, heads * width),
        heads=heads, kv_heads=kv_heads, rows=rows, head_dim=width, capacity=capacity, count=case.count,
        scale=case.scale, storage=case.storage, threads=threads, window=case.window, softcap=case.softcap,
        index_heads=index_heads, index_rows=index_rows, chosen=chosen, **pointers,
    )  # fmt: skip
    return out.transpose(0, 1), probabilities, totals
