"""Top-p attends to as few tokens as hold a given share of the attention, instead of a fixed number.

Paper: Twilight: Adaptive Attention Sparsity with Hierarchical Top-p Pruning. arXiv:2502.02770
Formula: with a(j) the scores as shares of attention between sinks and local window (for logits their softmax), the
    best tokens in falling order until sum a(j) >= `mass`; at most `budget` tokens in all.
Shapes: scores (batch, kv_heads, rows, slots), chosen (batch, kv_heads, rows, up to budget), -1 after a head's last one.
Effect: the paper prunes up to 98% of the tokens at full accuracy, with a number that follows the head and the query.
    RTPurbo (P4) argues the same for its indexer. Here, with 160 of 1,680 slots of a book, recall of the dense top-k is
    0.87 (0.08 at random; layers, heads and four tokens together), and digits of needles at 96 of 960 slots are right
    in 1.00 (dense 1.00, sinks and recent tokens 0.19; four examples). It does so with 0.87 of the slots: dynamic top-p
    holds 99% of what fixed top-k holds.
Differs: the shares are those of the tokens between sinks and local window, which are attended in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from tokloom.attention.selection.parts import Picker, best_first, prefix, slots_of
from tokloom.attention.selection.scores import Scores
from tokloom.attention.selection.selecting import Selecting
from tokloom.registry import method

if TYPE_CHECKING:
    import torch

    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer


@dataclass(frozen=True)
class Nucleus(Picker):
    """The fewest best items whose shares add up to `mass`."""

    mass: float

    def pick(self, layer: KVLayer, scores: Scores, budget: int) -> torch.Tensor:
        if scores.select is not None and scores.shares and scores.page == 1:
            return scores.select(min(budget, scores.items), None, self.mass)
        places, shares = best_first(scores, budget)
        before = shares.cumsum(-1) - shares
        # Places fall in score, so that those wanted come first.
        return slots_of(scores, prefix(places, ((before < self.mass) & (places >= 0)).sum(-1)))

    def lower(self, layer: KVLayer, plan: LayerPlan, index: Index, budget: int) -> bool:
        if not index.shares or index.page > 1:
            return False
        plan.choose(index, budget, self.mass)
        return True


@method(stage="attention")
class TopP(Selecting):
    """Exact scores; as many tokens as they need."""

    mass: float = Field(default=0.9, gt=0, le=1)
    """Share of the attention between sinks and local window that the tokens chosen hold."""

    def own_picker(self) -> Picker:
        return Nucleus(self.mass)
