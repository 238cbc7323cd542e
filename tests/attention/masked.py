"""The dense reference for policies that evict: a whole text in one pass, every pair hidden that the policy had dropped.

The bookkeeping is sets of positions per layer and KV head; the attention is a softmax over an explicit mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import repeat_kv

from tokloom.models.language_model import LanguageModel

Keep = Callable[[int, int, list[int], int], list[int]]
"""(layer, KV head, positions held, tokens seen) -> positions kept, ascending."""


def visible(layers: int, heads: int, passes: Sequence[tuple[int, bool]], keep: Keep) -> list[torch.Tensor]:
    """bool (kv_heads, n, n) of each layer: which token sees which. passes: how many tokens each adds, and whether
    eviction comes after it."""
    total = sum(tokens for tokens, _ in passes)
    masks = []
    for layer in range(layers):
        mask = torch.zeros(heads, total, total, dtype=torch.bool)
        for head in range(heads):
            held: list[int] = []
            seen = 0
            for tokens, evicts in passes:
                for row in range(seen, seen + tokens):
                    mask[head, row, held] = True
                    mask[head, row, seen : row + 1] = True
                held += range(seen, seen + tokens)
                seen += tokens
                if evicts:
                    held = keep(layer, head, held, seen)
        masks.append(mask)
    return masks


def logits(model: LanguageModel, tokens: list[int], masks: list[torch.Tensor]) -> torch.Tensor:
    """(tokens, vocabulary). Sliding windows come on top of the masks."""

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, sliding_window: int | None = None,
        softcap: float | None = None, **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        scores = query @ repeat_kv(key, groups).transpose(-1, -2) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        n = query.shape[2]
        seen = masks[module.layer_idx].repeat_interleave(groups, 0)
        if sliding_window is not None:
            seen = torch.ones(n, n).tril().bool() & ~torch.ones(n, n).tril(-sliding_window).bool()
        out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ repeat_kv(value, groups)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("masked", attend)
    before = model.model.config._attn_implementation
    model.model.set_attn_implementation("masked")
    try:
        with torch.inference_mode():
            return model.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    finally:
        model.model.set_attn_implementation(before)
