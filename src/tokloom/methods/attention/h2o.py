"""H2O keeps the tokens that have drawn most attention so far (heavy hitters) and the most recent ones.

Paper: P76. H_2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models. arXiv:2306.14048
Formula: score(j) = sum over all queries i seen so far, and over the query heads of a KV head's group, of
    softmax_j(q_i k_j / sqrt(d)). When the cache is over its budget: keep the `recent` newest tokens and, of the
    rest, the budget - recent with the highest score, per KV head; the others are dropped for good.
Shapes: sums of a pass and score (batch, kv_heads, slots).
Effect: the paper keeps quality with 20% of the cache. Here the bytes held fall to the budget and perplexity on a
    book stays nearer to dense than keeping as many recent tokens alone; a random needle in the middle of the
    prompt is lost, as its attention comes only after it was dropped (compare attention --tasks needle).
Differs: positions stay those of the text, where the authors' code renumbers the kept ones. Scores of a GQA group
    are summed. The prompt is evicted after every chunk, so that memory is bounded by budget + chunk, where the
    authors run it densely first (the same for a prompt of one chunk). While decoding, eviction comes every
    `interval` tokens (1 in the paper) down to budget - interval, so that `budget` is never exceeded and
    draft trees can be verified between two evictions with the very result of single steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from tokloom.attention.eviction import Evicting, best
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@method(stage="attention")
class H2O(Evicting):
    """State in the layer: slot memory "score"."""

    needs: ClassVar[tuple[str, ...]] = ("attention_sums",)

    recent: float = Field(default=0.5, ge=0, le=1)
    """Share of the budget that goes to the newest tokens; the paper halves it."""

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None  # `needs` asks for them
        layer.slot_memory("score").add_(weights)

    def kept(self, layer: KVLayer) -> torch.Tensor:
        return best(layer, layer.slot_memory("score"), self.size, 0, round(self.recent * self.size))
