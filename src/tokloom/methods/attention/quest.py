"""Quest keeps the smallest and largest key of every page and attends to the pages whose bound is highest.

Paper: Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference. arXiv:2406.10774
Formula: bound(page) = sum over d of max(q_d lo_d, q_d hi_d) = q+ . hi + q- . lo, with lo and hi the smallest and
    largest key of the page in each dimension, q+ = max(q, 0) and q- = min(q, 0); no key of the page scores higher.
    Attend to the pages of the highest bounds, as many as are in the budget.
Shapes: entries [hi, lo] (batch, kv_heads, pages, 2 d), queries [q+, q-] (batch, heads, rows, 2 d).
Effect: the paper reads a thousandth to a tenth of the keys at full accuracy, attention up to 7 times faster. Here,
    digits of needles at 96 of 960 slots are right in 0.98 with pages of 4, in 0.89 with pages of 8 and in 0.61 with the
    paper's 16 (dense 1.00; 16 examples): at so few slots large pages bring too much that nobody asked for.
    With 768 of 7,680 slots and int8 weights a token took 21 ms and 35 densely (two threads); attention alone, over
    32,768 keys, 25 ms and 111 densely, with pages of 16 12 ms and 107.
Differs: pages of 4 instead of 16. Slots belong to a KV head, so that its query heads choose together, by the sum of
    their softmaxes over the bounds. The page at the border of the local window is always taken. Every layer selects,
    where the authors leave the first two dense (`dense_layers=2`). Bounds are kept in bf16, rounded outwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.selection.page_index import PageIndex, score_pages
from tokloom.attention.selection.parts import Scorer
from tokloom.attention.selection.scores import Scores, Span
from tokloom.attention.selection.selecting import Selecting
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer


def bounds(keys: torch.Tensor) -> torch.Tensor:
    """[hi, lo] of each page in bf16, rounded outwards, so that they still are bounds."""
    both = torch.stack([keys.amax(3), -keys.amin(3)]).float()
    rounded = both.bfloat16()
    upper = torch.where(rounded.float() < both, rounded.nextafter(torch.full_like(rounded, torch.inf)), rounded)
    return torch.cat([upper[0], -upper[1]], dim=-1)


@dataclass(frozen=True)
class PageBounds(Scorer):
    """State in the layer: note "bounds", the index of full pages."""

    page: int
    by_slot: ClassVar[bool] = False

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        index = PageIndex.of(layer, f"bounds of {self.page}", self.page, bounds, span.last, "bf16")
        signed = torch.cat([queries.clamp_min(0), queries.clamp_max(0)], dim=-1)
        return score_pages(layer, signed, span, index, scale=queries.shape[-1] ** -0.5)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        index = PageIndex.of(layer, f"bounds of {self.page}", self.page, bounds, span.last, "bf16")
        return index.lowered(layer.width**-0.5, map="signs")


@method(stage="attention")
class Quest(Selecting):
    """Bounds of pages, top-k pages."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "page": 8}

    page: int = Field(default=4, ge=1)
    """Tokens in a page (16 in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.page > self.budget - self.sink - self.local:
            raise SpecError(
                "quest:page", self.page, f"at most what the budget leaves ({self.budget - self.sink - self.local})"
            )

    def own_scorer(self) -> Scorer:
        return PageBounds(self.page)
