"""TreeKV thins out the cache by letting neighbours compete, over and over from left to right, so that density falls
smoothly with distance.

Paper: P122. TreeKV: Smooth Key-Value Cache Compression with Tree Structures. arXiv:2501.04987
Formula: avg(j) = attention that token j has drawn so far / queries that could see it. Sinks and the newest tokens are
    kept; between them lies the tree. When a token is one too many, the slots i and i + 1 of the tree compete, where i
    is the number of evictions so far modulo the tree's size: the one with the lower average is dropped (the left one
    if equal). So each round halves the tree from left to right, while fresh tokens come in at its end.
Shapes: weights (batch, heads, rows, slots) summed to score (batch, kv_heads, slots); one scope for all KV heads.
Effect: the paper: lower perplexity than StreamingLLM, H2O and TOVA on PG19 and OpenWebText2, and the structure
    matters more than the averages. Here, 128 of some 1,000 slots, three passages of a book, loss a token of what
    follows: dense 2.818, TreeKV 2.951, sinks and recent tokens (streaming_llm) 3.037, H2O 3.037, TreeKV without the
    averages 3.056: TreeKV is best, but here the averages are what makes it so. A needle further back is lost like
    with the others (160 of 640 slots: 0.28 of the digits; dense 1.00).
Differs: no code was published; written from the paper's Algorithm 1. Positions stay those of the text, the paper
    renumbers them. Averages are taken once for the `interval` evictions that come together. In prompts the paper thins
    whole blocks by the attention of the last block; here the tokens of a chunk enter the tree in groups of `interval`
    just as decoded ones do, with the averages at the chunk's end, so that prompt and decoding are one rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.eviction import Evicting, group_sum
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@method(stage="attention")
class TreeKV(Evicting):
    """State in the layer: slot memory "score"."""

    needs: ClassVar[tuple[str, ...]] = ("attention_weights",)
    example: ClassVar[dict[str, Any]] = {**Evicting.example, "sink": 2}

    sink: int = Field(default=4, ge=0)
    """First tokens of the text that are always kept."""
    recent: float = Field(default=0.5, ge=0, le=1)
    """Share of the kept slots that goes to the newest tokens; the paper halves the budget."""
    by_attention: bool = Field(default=True)
    """Lets the averages decide who is dropped; else it is always the left one (the paper's ablation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tree < 1:
            raise SpecError(
                "tree_kv:recent", self.recent, f"a share that leaves some of {self.size} slots to the tree",
                "Raise the budget, or lower recent, sink or interval.",
            )  # fmt: skip

    @property
    def tree(self) -> int:
        """Slots of the tree."""
        return self.size - self.sink - round(self.recent * self.size)

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None  # `needs` asks for them
        layer.slot_memory("score").add_(group_sum(weights, layer.kv_heads))

    def kept(self, layer: KVLayer) -> torch.Tensor:
        seen_by = layer.seen - layer.positions  # a token is seen by itself and all that follow
        score = layer.slot_memory("score") / seen_by if self.by_attention else layer.positions.float()
        slots = torch.arange(layer.count, device=layer.device).expand(*layer.positions.shape)
        held, fresh = slots[..., : self.size], slots[..., self.size :]
        evicted = layer.seen - layer.count
        for group in torch.split(fresh, self.interval, dim=-1):
            held = torch.cat([held, group], dim=-1)
            left = group.shape[-1]
            while left:
                start = evicted % self.tree
                pairs = min(left, self.tree - start)
                held = self._compete(held, score, self.sink + start, pairs)
                evicted, left = evicted + pairs, left - pairs
        return held

    def _compete(self, held: torch.Tensor, score: torch.Tensor, start: int, pairs: int) -> torch.Tensor:
        """Drops one of each of `pairs` pairs from `start` on: the scope moves one slot a time, past the winner."""
        end = start + 2 * pairs
        left, right = held[..., start:end:2], held[..., start + 1 : end : 2]
        winner = torch.where(score.gather(-1, left) > score.gather(-1, right), left, right)
        return torch.cat([held[..., :start], winner, held[..., end:]], dim=-1)
