"""A threshold attends to every token whose share of the attention is large enough, instead of a fixed number.

Paper: none (baseline)
Formula: with a(j) the scores as shares of attention between sinks and local window: the tokens with a(j) >= `share`
    that are among the best 1 - `quantile` of all candidates; at most `budget` tokens in all.
Shapes: scores (batch, kv_heads, rows, slots), chosen (batch, kv_heads, rows, up to budget), -1 after a head's last one.
Effect: heads that spread their attention get many tokens, heads that look at one get one; a quantile alone is a budget
    that grows with the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.attention.selection.parts import Picker, best_first, prefix, slots_of
from tokloom.attention.selection.scores import Scores
from tokloom.attention.selection.selecting import Selecting
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@dataclass(frozen=True)
class AboveThreshold(Picker):
    """Items of at least `share` that lie above the `quantile` of the row's candidates."""

    share: float
    quantile: float

    def pick(self, layer: KVLayer, scores: Scores, budget: int) -> torch.Tensor:
        places, shares = best_first(scores, budget)
        candidates = (scores.values > -math.inf).sum(-1)
        maximum = ((1 - self.quantile) * candidates.double()).ceil().long()
        always = scores.values.gather(-1, places.clamp_min(0)) == math.inf
        wanted = ((shares >= self.share) | always) & (places >= 0)
        return slots_of(scores, prefix(places, torch.minimum(wanted.sum(-1), maximum)))


@method(stage="attention")
class Threshold(Selecting):
    """Exact scores; the tokens above a threshold."""

    share: float = Field(default=0.001, ge=0, le=1)
    """Least share of the attention between sinks and local window."""
    quantile: float = Field(default=0.0, ge=0, lt=1)
    """Share of the candidates that are left out in any case, the lowest ones."""

    def own_picker(self) -> Picker:
        return AboveThreshold(self.share, self.quantile)
