"""MISA lets a router pick, for every token, the few query heads that score keys for all.

Paper: P18. MISA: Mixture of Indexer Sparse Attention for Long-Context LLM Inference. arXiv:2605.07363
Formula: E_h = mean over blocks b of relu(q_h . mean key of b); the `active` heads of largest E_h are used. score(j) =
    sum over these heads of softmax_j(q_h k_j / sqrt(d)), one set for all heads. Hierarchical: the best
    `enlarge` * budget tokens by that score are rated again by all heads.
Shapes: router (batch, heads, rows), used heads (heads, rows), scores (batch, 1, rows, slots).
Effect: the paper finds over 92% of the full indexer's tokens with an eighth of its heads. Here, with 160 of 1,680 slots
    of a book, recall of the dense top-k is 0.55 (0.08 at random; layers, heads and four tokens together), and digits of
    one needle at 96 of 960 slots are right in 1.00 (dense 1.00; 16 examples), with 3 of 9 heads alone. With 768 of
    7,680 slots a token took 16 ms, with the second rating 20, and 29 to 30 densely (two threads); attention alone, over
    32,768 keys, 24 ms with it and 94 densely: three heads may need the keys of three KV heads. Several needles want
    the second rating: SmolLM2-135M keeps 0.82 / 0.87 of the digits that dense attention ranks first (96 of 960 slots, 8
    examples each; one number of four / three numbers) without, 0.96 / 0.94 with twice as many candidates as slots, 1.00
    / 0.98 with three times as many. On 8 others: SmolLM2-135M 1.00 / 0.94 (0.90 / 0.83 without), Gemma-3-270M 1.04 /
    1.00.
Differs: the heads are the attention's own query heads (TokenSelect's vote) in place of DeepSeek's gated indexer heads,
    so that scores are softmaxes and the router has no gates. They are over an int8 copy of the keys (`index`),
    and the router's means are in int8 too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.selection.key_scores import Source, index_by, scores_by
from tokloom.attention.selection.page_index import PageIndex
from tokloom.attention.selection.parts import Scorer, best_slots
from tokloom.attention.selection.scores import Scores, Span
from tokloom.attention.selection.selecting import Selecting
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer


@dataclass(frozen=True)
class RoutedHeads(Scorer):
    """State in the layer: note "means", the mean keys of full blocks."""

    active: int
    block: int
    enlarge: float
    index: Source

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        if among is not None and among.shape[1] > 1:  # narrowed down for each KV head, which then decides by itself
            return scores_by(layer, queries, span, self.index, among=among)
        use = self.route(layer, queries, span)
        scores = scores_by(layer, queries, span, self.index, shared=True, use=use, among=among)
        if self.enlarge > 1 and among is None:
            among = best_slots(scores, min(scores.items, math.ceil(self.enlarge * budget)))
            scores = scores_by(layer, queries, span, self.index, shared=True, among=among)
        return scores

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        if narrowed:
            return index_by(layer, span, self.index, shared=False)
        index = PageIndex.of_means(layer, self.block, span.last, "int8")
        plan.route(index.lowered(1.0), self.active)
        rated = index_by(layer, span, self.index, shared=True)
        if self.enlarge > 1:
            plan.narrow(rated, math.ceil(self.enlarge * budget))
        return rated

    def route(self, layer: KVLayer, queries: torch.Tensor, span: Span) -> torch.Tensor | None:
        """The heads that score, bool (heads, rows); None for all."""
        batch, heads, rows, width = queries.shape
        if self.active >= heads:
            return None
        index = PageIndex.of_means(layer, self.block, span.last, "int8")
        full = span.ends // self.block
        means = index.entries.rows()[:, :, : int(full.max())]
        grouped = queries.float().view(batch, means.shape[1], -1, rows, width)
        energies = (grouped @ means[:, :, None].transpose(-1, -2)).relu_()  # (batch, kv_heads, group, rows, blocks)
        if rows > 1:  # a row knows the blocks before its own local window
            blocks = torch.arange(means.shape[2], device=means.device)
            energies = energies.masked_fill(blocks >= full.to(means.device)[:, None], 0)
        by_head = energies.sum((0, -1)).flatten(0, 1)  # (heads, rows); the number of blocks is the same for all heads
        use = torch.zeros(heads, rows, dtype=torch.bool, device=queries.device)
        return use.scatter_(0, by_head.topk(self.active, dim=0).indices, True)


@method(stage="attention")
class MISA(Selecting):
    """Scores of routed heads, top-k."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "block": 4}

    active: int = Field(default=3, ge=1)
    """Query heads that score; from the model's number on, all do."""
    block: int = Field(default=32, ge=1)
    """Tokens whose mean key the router sees."""
    enlarge: float = Field(default=3.0, ge=1)
    """Candidates that all heads rate again, in budgets; 1 for none."""

    index: Source = Field(default="int8")
    """What is scored: an int8 copy of the keys (an eighth of the store more, where that is of float32), or the keys
    themselves."""

    def own_scorer(self) -> Scorer:
        return RoutedHeads(self.active, self.block, self.enlarge, self.index)
