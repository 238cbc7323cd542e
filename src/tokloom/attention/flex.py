"""Attention under a mask by FlexAttention, which on a GPU skips blocks that no row sees.

It was never run on a GPU: tests run it on the CPU, uncompiled, against torch's own attention.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

DEVICES = frozenset({"cuda"})
"""Types of devices on which masks go this way."""


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """softmax(scale * q k^T, capped) v, as queries: (batch, heads, rows, head_dim).

    mask: bool (batch or 1, kv_heads or 1, rows, slots), what each row sees; None: row i sees slots up to i."""
    batch, heads, rows, _ = query.shape
    kv_heads, slots = key.shape[1:3]
    group = heads // kv_heads
    seen = None if mask is None else mask.expand(batch, kv_heads, -1, -1)
    texts = 1 if mask is None else mask.shape[0]
    cap = softcap or 1.0

    def visible(b: torch.Tensor, h: torch.Tensor, row: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        return slot <= row if seen is None else seen[b, h // group, row, slot]

    def capped(score: torch.Tensor, *place: torch.Tensor) -> torch.Tensor:
        return torch.tanh(score / cap) * cap

    # One mask serves all texts or heads where it is the same for them.
    masks = texts, heads if mask is not None and mask.shape[1] > 1 else 1
    blocks = create_block_mask(visible, *masks, rows, slots, device=str(query.device))
    out: torch.Tensor = _kernel(query.device.type)(
        query, key, value, score_mod=None if softcap is None else capped, block_mask=blocks, scale=scale,
        enable_gqa=group > 1,
    )  # fmt: skip
    return out


@cache
def _kernel(device: str) -> Any:
    # Uncompiled it makes all scores, which is what a CPU without a compiler can do.
    return flex_attention if device == "cpu" else torch.compile(flex_attention, dynamic=True)
