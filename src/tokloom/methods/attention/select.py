"""Selection put together from parts: any method's scorer, picker and schedule.

Paper: none (baseline)
Formula: attend to the first `sink` tokens, the last `local` ones and, between them, what `picker` takes by the scores
    of `scorer`, anew when `schedule` says so. By itself: exact scores (per KV head the sum of its query heads'
    softmaxes), the best ones, for every token in every layer.
Shapes: q (batch, heads, rows, d), scores (batch, kv_heads, rows, slots), chosen (batch, kv_heads, rows, budget).
Effect: exact top-k is what indexes approximate: at 10% of the slots needles are read as by dense attention, at the
    cost of scoring every key.
"""

from __future__ import annotations

from pydantic import Field

from tokloom.attention.selection.key_scores import KeyScores, Source
from tokloom.attention.selection.parts import Scorer
from tokloom.attention.selection.selecting import Selecting
from tokloom.registry import method


@method(stage="attention")
class Select(Selecting):
    """Exact top-k; each part exchangeable."""

    index: Source = Field(default="keys")
    """What is scored: the keys themselves, or an int8 copy of them (an eighth of the store more, where that is of
    float32)."""

    def own_scorer(self) -> Scorer:
        return KeyScores(source=self.index)
