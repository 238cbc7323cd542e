"""The attention function that transformers calls in every layer, over the engine's KV store.

Registered as "tokloom" in transformers' attention interface. The engine passes its `KVStore` down
through the model's keyword arguments; a call without one (the user's own `model.generate`) is
transformers' sdpa attention, unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tokloom._core import LayerPlan
from tokloom._core import attend as core_attend
from tokloom.attention import flex
from tokloom.attention.policy import policy_of
from tokloom.errors import UnsupportedModelError
from tokloom.kv.layer import grouped_sum
from tokloom.kv.store import KVLayer, KVStore, StoreGroup

NAME = "tokloom"

MAX_WEIGHTS = 2**22
"""Probabilities that are there at a time where only their sums are wanted."""

FEW = 64
"""Rows up to which the core's kernel attends between torch's own operations, whose threads it would have to share."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    kv_store: KVStore | StoreGroup | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer.

    Args:
        query: (batch, heads, rows, head_dim); key, value: (batch, kv_heads, slots, head_dim), all rotated.

    Returns:
        (batch, rows, heads, head_dim) and no weights.
    """
    if kv_store is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, softcap=softcap, **kwargs,
        )  # fmt: skip
    for extra in ("s_aux", "position_bias", "sinks"):
        if kwargs.get(extra) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} passes {extra!r} to attention; tokloom has no rule for it."
            )
    layers = [store.layers[int(module.layer_idx)] for store in kv_store.stores]  # type: ignore[arg-type]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    outs = [
        attend_layer(layer, rows, scale, softcap, sliding_window)
        for layer, rows in zip(layers, torch.split(query, [layer.step.rows for layer in layers], dim=2), strict=True)
    ]
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1), None


def attend_layer(
    layer: KVLayer,
    query: torch.Tensor,
    scale: float,
    softcap: float | None,
    window: int | None,
    few: int | None = FEW,
) -> torch.Tensor:
    """One layer's attention, the policy's hooks included, over a store that has this pass's keys and values.

    Args:
        query: (batch, heads, rows, head_dim), rotated.
        few: rows up to which the core attends, where it can; None is any number.

    Returns:
        (batch, rows, heads, head_dim), contiguous.
    """
    layer.window = window
    replaced = policy_of(layer).attention(layer, query, scale, softcap) if window is None else None
    core = layer.core is not None and query.dtype == torch.float32 and (few is None or query.shape[2] <= few)
    asked = window is None and replaced is None
    plan = policy_of(layer).plan(layer) if asked and core else None
    selected = policy_of(layer).select(layer, query) if asked and plan is None else None
    if plan is None:
        record(layer, selected)
    needs = policy_of(layer).needs if window is None else ()
    # A tree's rows are summed once it is known which of them stay.
    summed = "attention_sums" in needs and "attention_weights" not in needs and layer.step.parents is None
    wanted = "attention_sums" in needs or "attention_weights" in needs
    watched = query
    if "attention_weights" in needs and layer.step.prompt and policy_of(layer).watched < query.shape[2]:
        watched = query[:, :, -policy_of(layer).watched :]
    if replaced is not None:
        out, weights = replaced.transpose(1, 2).contiguous(), None
    elif core:
        every = watched is query
        asks = wanted and selected is None and plan is None and every
        out, weights = _core(layer, query, selected, scale, softcap, asks, summed, plan)
        if not every:  # as if they were a pass of their own
            _, weights = _core(layer, watched, None, scale, softcap, wanted=True, summed=False)
    else:
        out, weights = _torch(layer, query, selected, scale, softcap), None
    if wanted and weights is None and replaced is None:
        mask, _ = _mask(layer, None)
        if mask is None and layer.step.rows > 1:
            mask = layer.step.own[None, None]
        make = attention_sums if summed else attention_weights
        if mask is not None:
            mask = mask[:, :, -watched.shape[2] :]
        weights = make(watched, layer.keys, mask, scale, softcap)
    if plan is not None:
        finish_plan(layer, plan)
    layer.finish(query, weights)
    return out


def record(layer: KVLayer, selected: torch.Tensor | None, chosen: int | None = None) -> None:
    """Counts what is attended to in this pass, and tells who watches."""
    count(layer, selected, chosen)
    if layer.watch is not None:
        layer.watch(layer, selected)


def finish_plan(layer: KVLayer, plan: LayerPlan) -> None:
    """The core has attended by this plan."""
    selected, chosen = None, None
    if not plan.dense:
        chosen = plan.listed * (layer.kv_heads // plan.shape[0])
        if layer.watch is not None or layer.slots.mapped is not None:
            selected = slots_of(plan)
    policy_of(layer).after_plan(layer, plan)
    record(layer, selected, chosen)


def slots_of(plan: LayerPlan) -> torch.Tensor:
    """What the core attended to by a plan, as `AttentionPolicy.select` would have it."""
    heads, rows, width, _ = plan.shape
    slots = torch.empty(1, heads, rows, width, dtype=torch.long)
    plan.copy_slots(slots.data_ptr())
    return slots


def _core(
    layer: KVLayer, query: torch.Tensor, selected: torch.Tensor | None, scale: float, softcap: float | None,
    wanted: bool, summed: bool, plan: LayerPlan | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """By the C++ kernel: (1, rows, heads, head_dim), and if wanted the probabilities (1, heads, rows, slots), or their
    sums (1, kv_heads, slots)."""
    _, heads, rows, width = query.shape
    step = layer.step
    query = query.contiguous()
    out = torch.empty(1, rows, heads, width)
    weights = None
    if wanted:
        weights = torch.empty((1, layer.kv_heads, layer.count) if summed else (1, heads, rows, layer.count))
    address = 0 if weights is None else weights.data_ptr()
    choice: dict[str, Any] = {}
    if selected is not None:
        selected = selected.contiguous()
        _, index_heads, index_rows, chosen = selected.shape
        choice = {
            "index": selected.data_ptr(), "chosen": chosen, "index_heads": index_heads, "index_rows": index_rows
        }  # fmt: skip
    core_attend(
        queries=query.data_ptr(), query_strides=(rows * width, width), out=out.data_ptr(),
        out_strides=(width, heads * width), heads=heads, rows=rows, count=layer.count,
        row_positions=step.row_positions.data_ptr(), own=step.own.data_ptr() if step.parents is not None else 0,
        window=layer.window or 0, scale=scale, softcap=softcap or 0.0, threads=torch.get_num_threads(),
        weights=0 if summed else address, sums=address if summed else 0, plan=plan, **layer.slots.core_arguments,
        **choice,
    )  # fmt: skip
    return out, weights


def _torch(
    layer: KVLayer, query: torch.Tensor, selected: torch.Tensor | None, scale: float, softcap: float | None
) -> torch.Tensor:
    """By torch's kernels: (batch, rows, heads, head_dim)."""
    if selected is not None and selected.shape[2] == 1:
        out = _attend_chosen(layer, query, selected, scale, softcap)
    else:
        mask, start = _mask(layer, selected)
        keys, values = layer.keys[:, :, start:], layer.values[:, :, start:]
        causal = mask is None and layer.step.rows > 1
        out = _dense(query, keys, values, mask, scale, softcap, causal)
    return out.transpose(1, 2).contiguous()


def attention_weights(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, softcap: float | None = None
) -> torch.Tensor:
    """softmax(scale * q k^T) under a bool mask: (batch, heads, rows, slots), in the dtype of `query`."""
    batch, heads, rows, _ = query.shape
    scores = attention_scores(query, key, scale, softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
    return scores.softmax(-1).reshape(batch, heads, rows, key.shape[2])


def attention_sums(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, softcap: float | None = None
) -> torch.Tensor:
    """`attention_weights` summed over the rows and the heads of a group: (batch, kv_heads, slots), float32."""
    batch, heads, rows, _ = query.shape
    out = torch.zeros(batch, key.shape[1], key.shape[2], device=query.device)
    step = max(1, MAX_WEIGHTS // (batch * heads * key.shape[2]))
    for first in range(0, rows, step):
        part = None if mask is None else mask[:, :, first : first + step]
        weights = attention_weights(query[:, :, first : first + step], key, part, scale, softcap)
        out += grouped_sum(weights, key.shape[1])
    return out


def attention_scores(query: torch.Tensor, key: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """scale * q k^T, capped: (batch, kv_heads, group, rows, slots), in the dtype of `query`."""
    batch, heads, rows, width = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, rows, width)
    scores = grouped @ key[:, :, None].transpose(-1, -2) * scale
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    causal: bool = False,
) -> torch.Tensor:
    """(batch, heads, rows, head_dim). `mask`: bool (batch or 1, kv_heads or 1, rows, slots)."""
    heads, kv_heads = query.shape[1], key.shape[1]
    if query.device.type in flex.DEVICES and (mask is not None or (softcap is not None and causal)):
        return flex.masked_attention(query, key, value, mask, scale, softcap)
    if softcap is not None:  # torch's fused kernel has no softcap
        if mask is None and causal:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
        weights = attention_weights(query, key, mask, scale, softcap)
        group = weights.view(weights.shape[0], kv_heads, -1, *weights.shape[2:])
        return (group @ value[:, :, None]).flatten(1, 2)
    if mask is not None and mask.shape[1] > 1:
        mask = mask.repeat_interleave(heads // kv_heads, dim=1)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, is_causal=causal, enable_gqa=heads != kv_heads
    )


def _attend_chosen(
    layer: KVLayer, query: torch.Tensor, selected: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """Gathers the slots that all rows share, (batch, kv_heads or 1, 1, chosen); attends to them and the rows' own."""
    past, step = layer.past, layer.step
    index = selected[:, :, 0].expand(selected.shape[0], layer.kv_heads, -1)
    empty = index < (0 if layer.holes is None else layer.holes[..., None])
    gather = index.clamp_min(0)[..., None]
    keys, values = (
        torch.cat([held[:, :, :past].gather(2, gather.expand(*index.shape, held.shape[-1])), held[:, :, past:]], dim=2)
        for held in (layer.keys, layer.values)
    )
    mask = None
    if step.rows > 1 or bool(empty.any()):
        if layer.holes is None:
            empty = selected[:, :, 0] < 0  # (batch, kv_heads or 1, chosen)
        own = step.own.expand(*empty.shape[:2], -1, -1)
        mask = torch.cat([~empty[:, :, None].expand(*empty.shape[:2], step.rows, -1), own], dim=-1)
    return _dense(query, keys, values, mask, scale, softcap)


def _mask(layer: KVLayer, selected: torch.Tensor | None) -> tuple[torch.Tensor | None, int]:
    """The mask over slots [start, count), bool (1 or batch, 1 or kv_heads, rows, slots), and `start`.

    None where no slot in that range is hidden from any row, or where causality is all (a pass
    without a past); then the fused kernel runs without a mask. Slots of the past lie before every
    row, so that only a sliding window can hide one, and holes are hidden from all.
    """
    step, past, count, window = layer.step, layer.past, layer.count, layer.window
    exists = layer.slots.exists
    if step.parents is None and selected is None and exists is None:
        if step.rows == 1:
            return None, 0 if window is None else max(0, count - window)
        if past == 0 and (window is None or count <= window):
            return None, 0
    key = (past, window or 0)
    if key not in step.masks:
        before = torch.ones(step.rows, past, dtype=torch.bool, device=step.device)
        own = step.own
        if window is not None:
            first_visible = step.position_ids[:, None] - window + 1
            before = layer.positions[0, 0, :past] >= first_visible
            own = own & (step.position_ids >= first_visible)
        step.masks[key] = torch.cat([before, own], dim=-1)[None, None]
    visible = step.masks[key]
    if exists is not None:
        visible = visible & exists[:, :, None]
    if selected is not None:
        chosen = torch.zeros((*selected.shape[:3], count + 1), dtype=torch.bool, device=selected.device)
        chosen.scatter_(-1, torch.where(selected < 0, count, selected), True)
        chosen[..., past:count] = True
        visible = visible & chosen[..., :count]
    return visible, 0


def count(layer: KVLayer, selected: torch.Tensor | None, chosen: int | None = None) -> None:
    """Adds this pass to the tally: pairs of a row and a slot, over all KV heads.

    chosen: their number where the core has selected, the rows' own left out."""
    step = layer.step
    batch, heads = layer.slots.batch, layer.slots.heads
    if layer.slots.mapped is not None:
        layer.tally.pages += layer.slots.pages(selected)
    attendable = step.pairs(layer.window)
    layer.tally.attendable += batch * heads * attendable
    if layer.window is not None:
        layer.tally.attended += batch * heads * attendable
    elif chosen is not None:
        layer.tally.attended += chosen + batch * heads * step.own_pairs
    elif selected is None:
        holes = 0 if layer.holes is None else int(layer.holes.sum())
        layer.tally.attended += (batch * heads * layer.past - holes) * step.rows + batch * heads * step.own_pairs
    else:
        if layer.holes is not None:
            chosen = int((selected >= layer.holes[..., None, None]).sum()) * (step.rows // selected.shape[2])
        else:
            chosen = int((selected >= 0).sum()) * (step.rows // selected.shape[2] * heads // selected.shape[1])
        layer.tally.attended += chosen + batch * heads * step.own_pairs


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
