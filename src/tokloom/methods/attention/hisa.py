"""HISA first drops the blocks whose mean key scores low, then scores tokens in the remaining ones only.

Paper: P108. HISA: Efficient Hierarchical Indexing for Fine-Grained Sparse Attention. arXiv:2603.28458
Formula: block score = the host's form of score with the mean of the block's keys; the top m blocks and, always, the
    first and the last one survive; the host scorer rates their tokens; attend to the best ones. m is `ratio` of the
    blocks, and enough to hold the budget.
Shapes: means (batch, kv_heads, blocks, d), candidates (batch, kv_heads, rows, m * block), scores alike.
Effect: the paper's sets overlap those of the flat indexer by over 99% at twice the speed for 32k tokens. That is not
    reached on SmolLM2-135M: with 800 slots chosen of 30,217 keys of real texts, IoU with exact top-k is 0.70 in 0.68 of
    its time, 0.78 in 0.73 with blocks of 8, and 0.91 with blocks of 8 of which half survive, which takes longer than
    scoring all; of 7,680 keys 0.76, 0.82 and 0.95 (two threads). What such a model attends to is scattered. All that is
    by keys in float32. With 768 of 7,680 slots a token took 22 ms and 33 densely, 19 and 32 with blocks of 32;
    attention alone, over 32,768 keys, 23 ms and 93 densely. At few slots blocks of 32 lose needles: at 96 of 960 (8
    examples each; one number of four / three numbers) SmolLM2-135M keeps 0.71 / 0.71 of the digits that dense attention
    ranks first, with blocks of 16 0.79 / 0.81, of 8 1.04 / 0.98. On 8 others: SmolLM2-135M 0.97 / 0.98, Gemma-3-270M
    1.04 / 1.00.
Differs: the host is any scorer of single tokens (`host`; by itself the attention's own scores over an int8 copy of the
    keys) in place of DeepSeek's indexer, and blocks are chosen per KV head, by the sum of its query heads' softmaxes
    over means in int8 (in float32 they were a sixth of the time).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom import registry
from tokloom.attention.policy import Calibration
from tokloom.attention.selection.page_index import PageIndex, score_pages
from tokloom.attention.selection.parts import Scorer, best_slots
from tokloom.attention.selection.scores import Scores, Span
from tokloom.attention.selection.selecting import Selecting
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer


@dataclass(frozen=True)
class Hierarchical(Scorer):
    """State in the layer: note "means", the mean keys of full blocks."""

    block: int
    ratio: float
    host: Scorer

    @property
    def calibrates(self) -> bool:
        return self.host.calibrates

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.host.calibrate(layer, queries)

    def finish_calibration(self, found: Calibration) -> Calibration:
        return self.host.finish_calibration(found)

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        if among is None:
            among = self.candidates(layer, queries, span, budget)
        return self.host.score(layer, queries, span, budget, among)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        if not narrowed:
            index = PageIndex.of_means(layer, self.block, span.last, "int8")
            plan.narrow(index.lowered(layer.width**-0.5, first=True), budget, self.ratio)
        return self.host.lower(layer, plan, span, budget, narrowed=layer.kv_heads > 1)

    def candidates(self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int) -> torch.Tensor:
        """The tokens of the surviving blocks."""
        index = PageIndex.of_means(layer, self.block, span.last, "int8")
        blocks = score_pages(layer, queries.float(), span, index, first=True)
        key = ("surviving", self.block, self.ratio, budget, id(span))
        shared = layer.step.shared
        if key not in shared:  # the same for all layers
            widths = span.ends // self.block + 1  # of each row
            # The first and the last block may lie outside the span for the most part.
            minimum = math.ceil(budget / self.block) + 2
            counts = torch.minimum((self.ratio * widths).ceil().int().clamp_min(minimum), widths)
            shared[key] = Span(0, counts, int(counts.max())), span
        surviving: Span = shared[key][0]
        return best_slots(blocks, surviving.last, surviving.ends)


@method(stage="attention")
class HISA(Selecting):
    """A filter of blocks before another scorer, top-k."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "block": 4}

    block: int = Field(default=8, ge=1)
    """Tokens in a block (128 in the paper, for contexts of 32k and more)."""
    ratio: float = Field(default=0.25, gt=0, le=1)
    """Share of the blocks that survive."""
    host: str = "select:index=int8"
    """The method whose scorer rates the tokens of the surviving blocks."""

    def own_scorer(self) -> Scorer:
        host = registry.build(self.host, Selecting, "hisa:host").own_scorer()
        if not host.by_slot:
            raise SpecError("hisa:host", self.host, "a method whose scorer rates single tokens, say select or fasa")
        return Hierarchical(self.block, self.ratio, host)
