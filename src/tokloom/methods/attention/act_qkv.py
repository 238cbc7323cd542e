"""ActQKV asks for blocks with the queries that stand out of a window, and gives layers blocks by information density.

Paper: P125. Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference.
    arXiv:2502.13542
Formula: activation bias of token t among `prompt_rows` neighbours = ||q_t - mean q||^2 over all heads; their probe is
    the mean of their queries weighted by bias, and chooses for all of them. Block score = q . mean key of the block.
    Cut-off: density D_l = entropy of the block scores' softmax over log(blocks); with T the total of the layers not yet
    done and E the density of a calibration text, layer l takes T D_l / (D_l + sum of E over later layers), at most
    `spread` times the budget, so that all layers together keep to `budget` a layer.
Shapes: probe (batch, heads, 1, d), means (batch, kv_heads, blocks, d), cut-off (rows,).
Effect: the paper has best results of its kind with 2k tokens. At few slots blocks must be small, and so must what a
    probe stands for: at 96 of 960 slots (8 examples each; one number of four / three numbers) SmolLM2-135M keeps 0.86 /
    0.67 of the digits that dense attention ranks first with blocks of 8, 1.00 / 0.95 with blocks of 4. Where rows of
    the prompt attend to 96 tokens too (`prompt_budget=0`) that falls to 0.64 / 0.69 with blocks of 8 and one probe for
    512 rows; with blocks of 4 and a probe for 64 rows it is 0.93 / 1.00, of 8 others 0.83 / 0.93. By default it is 0.99
    / 0.96 (20 others), on Gemma-3-270M 1.02 / 1.00 (16). Reading a prompt with a tenth of its tokens as budget, or 512,
    took 1.03 of dense attention's processor time for 2,048 tokens, 0.82 for 4,096, 0.64 to 0.76 for 8,192. At 2,048
    tokens with a budget of 204 that keeps 57 of the 62 digits of three numbers that dense attention ranks first (0.92),
    59 with `prompt=false` (6 examples): short of 95%. With 768 of 7,680 slots a token took 13 ms and 25 densely (two
    threads).
Differs: written from the abstract and a summary: the paper's exact bias and density were not at hand. The cut-off is
    found in one pass, without knowing the densities of later layers, hence the calibrated ones. Drafted rows have their
    own cut-off, so that speculation changes no token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.policy import Calibration
from tokloom.attention.selection.page_index import PageIndex, score_pages
from tokloom.attention.selection.parts import (
    Picker,
    Scorer,
    best_first,
    best_slots,
    prefix,
    shares_of,
    slots_of,
)
from tokloom.attention.selection.scores import Scores, Span
from tokloom.attention.selection.selecting import Selecting
from tokloom.methods.attention.fasa import sample
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer


@dataclass(frozen=True)
class MeanBlocks(Scorer):
    """State in the layer: note "means", the mean keys of full blocks."""

    block: int
    by_slot: ClassVar[bool] = False

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        index = PageIndex.of_means(layer, self.block, span.last)
        return score_pages(layer, queries.float(), span, index)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        index = PageIndex.of_means(layer, self.block, span.last)
        return index.lowered(layer.width**-0.5)


@dataclass(frozen=True)
class DensityCut(Picker):
    """Gives a layer items by its share of the information density, out of a total for all layers.

    State in the step: what is left of the total, by row. Calibration: "density" (2,), the sum over later layers, and
    how many layers there are from this one on.
    """

    spread: float

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        keys, rows = sample(layer.keys[0], queries[0])
        keys = keys.repeat_interleave(rows.shape[0] // keys.shape[0], dim=0)
        shares = (rows @ keys.transpose(1, 2) * rows.shape[-1] ** -0.5).softmax(-1)
        return {"density": density(shares, torch.tensor(shares.shape[-1])).mean()}

    def finish_calibration(self, found: Calibration) -> Calibration:
        later, layers = 0.0, 0
        for part in reversed(found):
            if "density" in part:
                own, layers = float(part["density"]), layers + 1
                part["density"] = torch.tensor([later, layers])
                later += own
        return found

    def pick(self, layer: KVLayer, scores: Scores, budget: int) -> torch.Tensor:
        later, layers = layer.calibration["density"].tolist()
        left = layer.step.shared.get("left")
        if left is None:
            left = torch.full(scores.values.shape[:1] + scores.values.shape[2:3], budget * layers)
        maximum = math.floor(self.spread * budget)
        own = density(shares_of(scores), (scores.values > -math.inf).sum(-1)).mean(1)  # (batch, rows)
        part = (left * own / (own + later).clamp_min(1e-9)).clamp_max(maximum)
        items = torch.floor(part / scores.page + 1e-4).long()  # a whole number of items may come out a bit below it
        layer.step.shared["left"] = left - items * scores.page
        if scores.select is not None:  # of one sequence
            counts = items[0].clamp_max(scores.items).int()
            return best_slots(scores, int(counts.max()), counts)
        places, _ = best_first(scores, maximum)
        return slots_of(scores, prefix(places, torch.minimum(items[:, None], (places >= 0).sum(-1))))

    def lower(self, layer: KVLayer, plan: LayerPlan, index: Index, budget: int) -> bool:
        if not index.shares:
            return False
        later, layers = layer.calibration["density"].tolist()
        left = layer.step.shared.get("left in the core")
        if left is None:
            left = torch.full((layer.step.rows,), budget * layers, dtype=torch.float32)
            layer.step.shared["left in the core"] = left
        plan.choose_by_density(index, later, math.floor(self.spread * budget), left.data_ptr())
        return True


def density(shares: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Entropy over the last dimension as a share of the largest possible with so many candidates: (...,)."""
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum(-1).clamp_max(0)  # rounding may take it beyond
    return entropy / candidates.clamp_min(2).log()


def activation_bias(queries: torch.Tensor) -> torch.Tensor:
    """How far each row's query (batch, heads, rows, d) lies from the mean, squared, over all heads: (batch, rows)."""
    return (queries - queries.mean(2, keepdim=True)).float().square().sum((1, 3))


@method(stage="attention")
class ActQKV(Selecting):
    """Probe queries, mean keys of blocks, a cut-off by layer; `budget` is the mean over the layers."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "block": 4}

    prompt: bool = Field(default=True)
    """Select in the prompt too, neighbouring rows together by their probe; else the prompt attends to everything."""
    block: int = Field(default=4, ge=1)
    """Tokens in a block."""
    spread: float = Field(default=2.0, ge=1)
    """Most that a layer gets, in budgets."""

    def probe(self, queries: torch.Tensor) -> torch.Tensor:
        bias = activation_bias(queries) + 1e-12
        weights = (bias / bias.sum(-1, keepdim=True)).to(queries.dtype)
        return (queries * weights[:, None, :, None]).sum(2, keepdim=True)

    def own_scorer(self) -> Scorer:
        return MeanBlocks(self.block)

    def own_picker(self) -> Picker:
        return DensityCut(self.spread)
