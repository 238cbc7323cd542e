"""SnapKV keeps what the last tokens of the prompt, an observation window, attend to.

Paper: SnapKV: LLM Knows What You are Looking for Before Generation. arXiv:2404.14469
Formula: votes(j) = sum over the window's queries, and over the query heads of a KV head's group, of their attention to
    slot j, averaged over the `pool` slots around j. Keep the `window` newest slots and, of the rest, those with the
    most votes, `budget` in all, per KV head.
Shapes: weights (batch, heads, rows, slots) summed to votes (batch, kv_heads, slots).
Effect: the paper: accuracy near the full cache's on LongBench and needles with 1,024 slots of 16,000 tokens. Here, a
    quarter of 640 slots with the whole prompt in one chunk, so that the question is in the window: 0.78 of a needle's
    digits right (H2O and sinks + recent 0.28, dense 1.00). In chunks of 512 tokens, where most is evicted before the
    question is read, 0.35 to 0.48. Loss on a book, 128 of 1,000 slots, two passages: 2.62 without pooling, 2.75 with
    pool=7 (H2O 2.75, sinks + recent 2.59, dense 2.29): pooling spends slots on neighbours. `adaptive` did not help in
    this (2.79 against 2.75).
Differs: the paper compresses once, after the whole prompt, and then lets the cache grow. Here every prompt chunk ends
    with its own window, so that memory is bounded by budget + chunk (the same for a prompt of one chunk, whose peak is
    the whole prompt, as the paper's is); while decoding, the queries since the last eviction are the window. Votes are
    summed over a GQA group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.eviction import Evicting, apportion, best, end_window, observe_window
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@method(stage="attention", renamed={"least": "min_share"})
class SnapKV(Evicting):
    """State in the layer: slot memory "votes"."""

    needs: ClassVar[tuple[str, ...]] = ("attention_weights",)
    example: ClassVar[dict[str, Any]] = {**Evicting.example, "window": 4}

    window: int = Field(default=16, ge=1)
    """Last queries of a prompt chunk that vote; as many newest slots are always kept."""
    pool: int = Field(default=5, ge=1)
    """Slots over which votes are averaged, an odd number: neighbours of a chosen token stay with it."""

    adaptive: bool = Field(default=False)
    """Divides a layer's budget over its KV heads by how many of the layer's most voted slots each has (AdaKV)."""
    min_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the budget that every KV head is sure of, where it is divided."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window > self.size:
            raise SpecError("snap_kv:window", self.window, f"at most budget - interval ({self.size})")
        if self.pool % 2 == 0:
            raise SpecError("snap_kv:pool", self.pool, "an odd number")

    @property
    def watched(self) -> int:
        return self.window

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None  # `needs` asks for them
        observe_window(layer, weights, self.window)

    def kept(self, layer: KVLayer) -> torch.Tensor:
        votes = torch.nn.functional.avg_pool1d(layer.slot_memory("votes"), self.pool, 1, self.pool // 2)
        end_window(layer)
        size = self._shares(votes) if self.adaptive else self.size
        return best(layer, votes, size, 0, self.window)

    def _shares(self, votes: torch.Tensor) -> torch.Tensor:
        """Slots of each KV head, int64 (batch, kv_heads)."""
        batch, heads, slots = votes.shape
        top_voted = votes.flatten(1).topk(heads * self.size).indices
        head = top_voted // slots
        wins = torch.zeros((batch, heads), device=votes.device).scatter_add_(
            1, head, torch.ones_like(head, dtype=torch.float32)
        )
        return apportion(wins, self.size, max(self.window, round(self.min_share * self.size)))
