"""Slow, obvious attention: one query at a time, one head at a time, with an explicit set of visible positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import repeat_kv


def register(name: str, visible: Callable[[int, int, torch.Tensor, torch.Tensor], set[int]]) -> None:
    """Registers an attention function for a whole text in one pass without a cache.

    visible(layer, query position, this query's per-head q (heads, d), all keys (heads, n, d)) gives the
    positions that the query sees.
    """

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):  # type: ignore[no-untyped-def]
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        out = torch.zeros_like(query)
        for i in range(query.shape[2]):
            seen = sorted(visible(module.layer_idx, i, query[0, :, i], key[0]))
            for h in range(query.shape[1]):
                scores = torch.stack([query[0, h, i] @ key[0, h, j] * scaling for j in seen])
                out[0, h, i] = sum(w * value[0, h, j] for w, j in zip(scores.softmax(0), seen, strict=True))
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)


def register_per_head(name: str, visible: Callable[[int, int, torch.Tensor, torch.Tensor], list[set[int]]]) -> None:
    """As `register`, with a set of visible positions for each query head."""

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):  # type: ignore[no-untyped-def]
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        out = torch.zeros_like(query)
        for i in range(query.shape[2]):
            for h, seen in enumerate(visible(module.layer_idx, i, query[0, :, i], key[0])):
                places = sorted(seen)
                scores = key[0, h, places] @ query[0, h, i] * scaling
                out[0, h, i] = scores.softmax(0) @ value[0, h, places]
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)
