"""Scores of slots against queries and the best of them: in the C++ core where it can, else in torch.

Slots of a selecting policy are never evicted, so that a slot's index is its position in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tokloom._core import choose_slots
from tokloom._core import score_slots as core_score_slots
from tokloom._core import select_slots as core_select_slots
from tokloom.kv.layer import KVLayer
from tokloom.kv.precision import Plain, Precision

Reduce = Literal["max", "sum", "mass"]
"""How query heads become one score: the largest, the sum, or the sum of their softmaxes."""


@dataclass(frozen=True)
class Entries:
    """What is scored in place of a layer's keys: rows that a policy makes of them.

    parts: as `precision` stores rows of `width` elements, (batch, kv_heads, n, ...) each, a head's rows one after
        another and all parts with room for as many.
    """

    precision: Precision
    parts: list[torch.Tensor]
    width: int

    @classmethod
    def of(cls, rows: torch.Tensor) -> Entries:
        """Rows (batch, kv_heads, n, width) as they are."""
        return cls(Plain(rows.dtype), [rows], rows.shape[-1])

    def rows(self) -> torch.Tensor:
        """float32 (batch, kv_heads, n, width)."""
        return self.precision.decode(self.parts, self.width, torch.float32)

    @property
    def head_stride(self) -> int:
        """Rows from one KV head to the next."""
        return self.parts[0].stride(1) // self.parts[0].shape[-1]

    @property
    def core_arguments(self) -> dict[str, Any]:
        """What the core takes of them."""
        rows, *scales = (part.data_ptr() for part in self.parts)
        held = {"keys": rows, "storage": self.precision.core, "head_stride": self.head_stride}
        return held | {"key_scales": scales[0]} if scales else held


@dataclass
class Span:
    """What each row may choose: the slots [begin, ends[row]).

    ends: int32 (rows,), on the CPU; last: the largest of them."""

    begin: int
    ends: torch.Tensor
    last: int


class Scores:
    """Scores of items, each of which stands for one slot or for a page of `page` consecutive ones.

    values: float32 (batch, kv_heads or 1, rows, items); -inf for what may not be chosen, inf for what always is. Or
        what makes them, called when they are asked for.
    slots: which slot (or page) each item is, int64 and as `values` but for sizes of 1; None: item i is i.
    span: of pages: slots outside it are left out of a page that is taken.
    shares: the values are shares of attention, or sums of them; else logits.
    items: their number, where the values are still to be made.
    select: the slots of the best k items without making the values: (k, counts, mass) -> int64 (batch, kv_heads or 1,
        rows, k * page), -1 for none. counts: int32 (rows,), at most k, where rows differ. mass, of single slots whose
        values are shares only: of those, best first, as many as hold this share of all; 0 for all.
    """

    def __init__(
        self,
        values: torch.Tensor | Callable[[], torch.Tensor],
        slots: torch.Tensor | None = None,
        page: int = 1,
        span: Span | None = None,
        shares: bool = False,
        items: int = 0,
        select: Callable[[int, torch.Tensor | None, float], torch.Tensor] | None = None,
    ) -> None:
        self._values, self.slots, self.page, self.span, self.shares = values, slots, page, span, shares
        self.select = select
        self.items = values.shape[-1] if isinstance(values, torch.Tensor) else items

    @property
    def values(self) -> torch.Tensor:
        if not isinstance(self._values, torch.Tensor):
            self._values = self._values()
        return self._values


def scores_of_slots(
    layer: KVLayer,
    queries: torch.Tensor,
    span: Span,
    *,
    keys: Entries | None = None,
    scale: float | None = None,
    reduce: Reduce = "mass",
    shared: bool = False,
    among: torch.Tensor | None = None,
    use: torch.Tensor | None = None,
) -> Scores:
    """As `score_slots`; they are made when they are asked for."""

    def values() -> torch.Tensor:
        return score_slots(
            layer, queries, span, keys=keys, scale=scale, reduce=reduce, shared=shared, among=among, use=use
        )

    def select(k: int, counts: torch.Tensor | None, mass: float) -> torch.Tensor:
        call = _CoreCall(layer, queries, span, keys, scale, reduce, shared, among, use)
        return call.select(k, counts, mass)

    items = span.last if among is None else among.shape[-1]
    fast = select if _in_core(layer, queries, keys) else None
    return Scores(values, among, shares=reduce == "mass", items=items, select=fast)


def _in_core(layer: KVLayer, queries: torch.Tensor, keys: Entries | None) -> bool:
    core = layer.core is not None and layer.holes is None and queries.dtype == torch.float32 and queries.shape[0] == 1
    return core and (keys is None or keys.precision.core is not None)


class _CoreCall:
    """What the core's two functions take of these arguments; see `score_slots`. Holds the tensors that it points to."""

    def __init__(
        self,
        layer: KVLayer,
        queries: torch.Tensor,
        span: Span,
        keys: Entries | None,
        scale: float | None,
        reduce: Reduce,
        shared: bool,
        among: torch.Tensor | None,
        use: torch.Tensor | None,
    ) -> None:
        _, heads, rows, width = queries.shape
        kv_heads = layer.kv_heads
        queries = queries.contiguous()
        if keys is None:
            held = layer.slots.core_arguments
            stored: dict[str, Any] = {name: held[name] for name in ("keys", "storage", "key_scales", "centres")}
            stored["head_stride"] = held["capacity"]
        else:
            stored = keys.core_arguments
        if among is not None:
            among = among.contiguous()
            stored |= {
                "index": among.data_ptr(), "chosen": among.shape[-1], "index_heads": among.shape[1],
                "index_rows": among.shape[2],
            }  # fmt: skip
        if use is not None:
            use = use.contiguous()
            stored["use"] = use.data_ptr()
        self._held = queries, keys, among, use, span
        self.results, self.rows = 1 if shared else kv_heads, rows
        self.places = span.last if among is None else among.shape[-1]
        self.arguments: dict[str, Any] = {
            "queries": queries.data_ptr(), "query_strides": (rows * width, width), "heads": heads,
            "kv_heads": kv_heads, "rows": rows, "width": width, "count": span.last,
            "scale": width**-0.5 if scale is None else scale, "threads": torch.get_num_threads(),
            "begin": span.begin, "ends": span.ends.data_ptr(), "reduce": reduce, "shared": shared, **stored,
        }  # fmt: skip

    def score(self) -> torch.Tensor:
        out = torch.empty(1, self.results, self.rows, self.places)
        core_score_slots(out=out.data_ptr(), **self.arguments)
        return out

    def select(
        self,
        k: int,
        counts: torch.Tensor | None,
        mass: float,
        page: int = 1,
        slots: Span | None = None,
        first: bool = False,
    ) -> torch.Tensor:
        """slots: of pages, the span that they are of."""
        out = torch.empty(1, self.results, self.rows, k * page, dtype=torch.long)
        core_select_slots(
            out=out.data_ptr(), k=k, counts=0 if counts is None else counts.data_ptr(), mass=mass, page=page,
            slot_begin=0 if slots is None else slots.begin, slot_ends=0 if slots is None else slots.ends.data_ptr(),
            first=first, **self.arguments,
        )  # fmt: skip
        return out


def scores_of_pages(
    layer: KVLayer,
    queries: torch.Tensor,
    span: Span,
    pages: Span,
    entries: Entries,
    size: int,
    reduce: Reduce,
    scale: float | None,
    first: bool,
) -> Scores:
    """Scores of the pages of `size` slots that overlap a span, by their entries.

    pages: those that are full. The page at a row's end, which may not be full yet, is always taken; the first one too
        if `first`.
    """

    def values() -> torch.Tensor:
        values = score_slots(layer, queries, pages, keys=entries, reduce=reduce, scale=scale)
        values = torch.nn.functional.pad(values, (0, 1), value=-torch.inf)
        begun = torch.where(span.ends % size > 0, torch.inf, -torch.inf).to(values.device)
        place = pages.ends.long().to(values.device)[:, None].expand(*values.shape[:-1], 1)
        values.scatter_(-1, place, begun[:, None].expand_as(place))
        if first:
            values[..., pages.begin : pages.begin + 1] = torch.inf
        return values

    def select(k: int, counts: torch.Tensor | None, mass: float) -> torch.Tensor:
        call = _CoreCall(layer, queries, pages, entries, scale, reduce, False, None, None)
        return call.select(k, counts, mass, size, span, first)

    fast = select if _in_core(layer, queries, entries) else None
    return Scores(values, page=size, span=span, shares=reduce == "mass", items=pages.last + 1, select=fast)


def score_slots(
    layer: KVLayer,
    queries: torch.Tensor,
    span: Span,
    *,
    keys: Entries | None = None,
    scale: float | None = None,
    reduce: Reduce = "max",
    shared: bool = False,
    among: torch.Tensor | None = None,
    use: torch.Tensor | None = None,
) -> torch.Tensor:
    """scale * q k^T, reduced over the query heads that share a result.

    Args:
        queries: float32 (batch, heads, rows, width).
        keys: what is scored instead of the layer's keys, at least span.last of it: an index of the policy's own.
        scale: 1 / sqrt(width) if left out.
        shared: one result for all KV heads.
        among: int64 (batch, kv_heads or 1, rows or 1, chosen): only these are scored, -1 for none.
        use: bool (heads, rows), which query heads have a say.

    Returns:
        float32 (batch, kv_heads or 1, rows, span.last or chosen); -inf outside the span.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    if _in_core(layer, queries, keys):
        return _CoreCall(layer, queries, span, keys, scale, reduce, shared, among, use).score()
    compared = layer.keys if keys is None else keys.rows()
    holes = layer.holes if keys is None else None
    compared = (compared if among is not None else compared[:, :, : span.last]).float()
    return _scores(compared, queries.float(), span, scale, reduce, shared, among, use, holes)


def _scores(
    keys: torch.Tensor,
    queries: torch.Tensor,
    span: Span,
    scale: float,
    reduce: Reduce,
    shared: bool,
    among: torch.Tensor | None,
    use: torch.Tensor | None,
    holes: torch.Tensor | None,
) -> torch.Tensor:
    """As `score_slots`, by torch. holes: of each KV head, (batch, kv_heads), which score -inf."""
    batch, _, rows, width = queries.shape
    kv_heads, count = keys.shape[1:3]
    grouped = queries.view(batch, kv_heads, -1, rows, width)
    slots = torch.arange(count, device=keys.device)
    if among is None:
        raw = grouped @ keys[:, :, None].transpose(-1, -2)  # (batch, kv_heads, group, rows, count)
        inside = (slots >= span.begin) & (slots < span.ends.to(keys.device)[:, None])
        inside = inside.expand(batch, kv_heads, rows, count)
        listed = slots.expand(batch, kv_heads, rows, count)
    else:
        listed = among.expand(batch, kv_heads, rows, among.shape[-1])
        chosen = keys[:, :, None].expand(-1, -1, rows, -1, -1).gather(
            3, listed.clamp_min(0)[..., None].expand(*listed.shape, width)
        )  # fmt: skip
        raw = torch.einsum("bhgrd,bhrcd->bhgrc", grouped, chosen)
        inside = (listed >= span.begin) & (listed < span.ends.to(keys.device)[:, None])
    if holes is not None:
        inside = inside & (listed >= holes[..., None, None])
    raw = raw * scale
    raw = raw.masked_fill(~inside[:, :, None], -torch.inf)
    if reduce == "mass":
        raw = raw.softmax(-1).nan_to_num(0)
    neutral = -torch.inf if reduce == "max" else 0.0
    if use is not None:
        heard = use.view(kv_heads, -1, rows)
        raw = raw.masked_fill(~heard[None, ..., None], neutral)
        heard = heard.any(1).any(0, keepdim=True) if shared else heard.any(1)
        inside = inside & heard[None, ..., None]
    dims = (1, 2) if shared else (2,)
    out = raw.amax(dims) if reduce == "max" else raw.sum(dims)
    if shared:
        out, inside = out[:, None], inside.any(1, keepdim=True)
    return out.masked_fill(~inside, -torch.inf)


def largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Places of the k largest in the last dimension, int64 (..., k), ascending; -1 at the end where fewer are above
    -inf. Equal ones are taken from the front.

    values: float32."""
    width = values.shape[-1]
    if values.device.type == "cpu" and values.dtype == torch.float32:
        values = values.contiguous()
        out = torch.empty(*values.shape[:-1], k, dtype=torch.long)
        choose_slots(
            scores=values.data_ptr(), rows=values.shape[:-1].numel(), width=width, k=k, out=out.data_ptr(),
            threads=torch.get_num_threads(),
        )  # fmt: skip
        return out
    order = values.sort(dim=-1, descending=True, stable=True)
    places = order.indices[..., :k].masked_fill(order.values[..., :k] == -torch.inf, width)
    places = places.sort(-1).values
    places = places.masked_fill(places == width, -1)
    return torch.nn.functional.pad(places, (0, k - places.shape[-1]), value=-1)
