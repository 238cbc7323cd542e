"""TidalDecode scores all keys in a few layers only; the layers between attend to what the last of these chose.

Paper: P52. TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse Attention. arXiv:2410.05076
Formula: each of `layers` attends densely and chooses the k slots with the largest sum of softmaxes over all query
    heads; every other layer attends to the slots that the nearest such layer before it chose, and layers before the
    first one densely. Where no layers are given they are found on a calibration text of which a passage is read twice:
    of all sets with a `share` of the layers attending densely, the one under which most of the attention is met that
    the second reading gives to where its tokens were read first, in all layers.
Shapes: q (batch, heads, rows, d), choice (batch, 1, rows, k), handed on within a pass.
Effect: the paper decodes up to 2.1 times faster with needles found at 1% of the tokens. Here three of SmolLM2-135M's 30
    layers attend densely, 0, 7 and 17, which is 19% of all pairs at 96 of 960 slots, and 0.97 / 1.00 of the digits that
    dense attention ranks first are kept (one number of four / three numbers, 20 examples each), 1.02 / 1.00 on
    Gemma-3-270M (16 each). It matters what calibration looks at: by all attention to distant slots it found layers 0, 2
    and 14, which kept 0.93 of three numbers' digits where 0, 7 and 17 keep 0.97 (15 other examples), 0, 14 and 21 0.90,
    0, 13 and 21 0.41. The paper's layers for larger models, 0 to 2 and 13, kept 0.52 of one number's. Prose pays for
    it: the mean log-probability of 480 tokens of a book is -3.19, under 0, 2 and 14 -3.15, densely -2.98. With 768 of
    7,680 slots a token took 10 ms and 25 densely (two threads); attention alone, over 32,768 keys, 16 ms and 78
    densely.
Differs: the paper finds its second choosing layer by a needle test for each model; here all are found at once, and
    scores are not needed. KV heads of different layers have nothing to do with each other, so that all heads of a layer
    choose together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.attention.attend import attention_weights
from tokloom.attention.calibration import REPEATED, distance
from tokloom.attention.policy import Calibration
from tokloom.attention.selection.key_scores import KeyScores
from tokloom.attention.selection.parts import Schedule, Scorer
from tokloom.attention.selection.selecting import Selecting
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import LayerPlan
    from tokloom.kv.layer import KVLayer

SAMPLES = 96
"""Calibration queries."""
SINKS, LOCAL = 4, 32
"""Slots that calibration leaves out, as they are attended to in any case."""
CHOSEN = 10
"""Calibration chooses one in so many slots."""
NEAR = 4
"""Slots on either side of a token's first reading that count as looked up."""


@dataclass(frozen=True)
class ChosenLayers(Schedule):
    """Chooses in some layers, which attend densely, for those after them.

    layers: a layer that has no attention of this kind (one with a sliding window) leaves the choice to the next.
        Empty: as calibrated ("layers", the same for all).
    share: of the layers that attend densely, where they are calibrated.
    """

    layers: tuple[int, ...]
    share: float

    @property
    def calibrates(self) -> bool:
        return not self.layers

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        choices: list[torch.Tensor] = layer.step.shared.setdefault("choices", [])
        tokens = queries.shape[2]
        second = tokens // REPEATED
        rows = torch.linspace(tokens - second, tokens - 1, min(SAMPLES, second), device=queries.device).long()
        slots = torch.arange(tokens, device=queries.device)
        causal = (slots <= rows[:, None])[None, None]
        weights = attention_weights(queries[:, :, rows], layer.keys, causal, queries.shape[-1] ** -0.5)[0]
        between = weights.float() * ((slots >= SINKS) & (slots <= rows[:, None] - LOCAL))  # (heads, samples, tokens)
        votes = (between / between.sum(-1, keepdim=True).clamp_min(1e-30)).sum(0)
        choices.append(votes.topk(max(1, tokens // CHOSEN), dim=-1).indices)
        first = rows[:, None] - distance(tokens)  # where the same token was read first
        of_rows = (between * ((slots - first).abs() <= NEAR)).sum(0)
        met = [of_rows.gather(-1, choice).sum() for choice in choices[:-1]]
        return {"met": torch.stack([*met, of_rows.sum()])}

    def finish_calibration(self, found: Calibration) -> Calibration:
        parts = [part for part in found if "met" in part]
        places = [index for index, part in enumerate(found) if "met" in part]
        met = [part.pop("met").tolist() for part in parts]
        chosen = torch.tensor([places[i] for i in best_layers(met, max(1, round(self.share * len(met))))])
        for part in parts:
            part["layers"] = chosen.clone()
        return found

    def choose(self, layer: KVLayer, queries: torch.Tensor, fresh: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        shared = layer.step.shared
        last, choice = shared.get("choice", (-1, None))
        if self._chooses(layer, last):
            shared["choice"] = layer.index, fresh()
            return None
        handed_on: torch.Tensor | None = choice
        return handed_on

    def lower(self, layer: KVLayer, plan: LayerPlan, fresh: Callable[[], bool]) -> bool:
        shared = layer.step.shared
        last, chosen = shared.get("plan that chooses", (-1, None))
        if self._chooses(layer, last):
            shared["plan that chooses"] = layer.index, plan
            plan.attend_densely()
            return fresh()
        if chosen is not None:
            plan.reuse(chosen)
        return True

    def _chooses(self, layer: KVLayer, last: int) -> bool:
        """Whether this layer chooses, where `last` was the one before it that did."""
        shared = layer.step.shared
        if "choosing" not in shared:
            shared["choosing"] = self.layers or tuple(layer.calibration["layers"].tolist())
        return any(last < chosen <= layer.index for chosen in shared["choosing"])


def best_layers(met: list[list[float]], dense: int) -> tuple[int, ...]:
    """Which layers shall choose if `dense` layers in all attend densely, those before the first included.

    met: [layer][chooser], the attention of a layer to what is looked up that the choice of one before it meets; the
        last is its own, all that it has as it is then dense.
    """
    count = len(met)

    @cache
    def onward(chooser: int, left: int) -> tuple[float, tuple[int, ...]]:
        """The most that the layers from a choosing one on meet, with `left` more of these, and where they are."""
        total = met[chooser][-1]
        best: tuple[float, tuple[int, ...]] = (-1.0, (chooser,))
        for after in range(chooser + 1, count):
            if left:
                more, further = onward(after, left - 1)
                best = max(best, (total + more, (chooser, *further)))
            total += met[after][chooser]
        return max(best, (total, (chooser,)))

    found = []
    for first in range(min(dense, count)):
        meets, layers = onward(first, dense - 1 - first)
        found.append((meets + sum(met[layer][-1] for layer in range(first)), layers))
    return max(found)[1]


@method(stage="attention")
class TidalDecode(Selecting):
    """Selection in a few layers, handed on to the others."""

    layers: tuple[int, ...] = Field(default=())
    """Layers that choose, in order; none: found on a calibration text."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Share of the layers that attend densely, where they are found: those that choose, and those before the first."""

    def __post_init__(self) -> None:
        if list(self.layers) != sorted({layer for layer in self.layers if layer >= 0}):
            raise SpecError("tidal_decode:layers", self.layers, "layer numbers from 0 on, in rising order")
        super().__post_init__()

    def own_scorer(self) -> Scorer:
        return KeyScores(shared=True)

    def own_schedule(self) -> Schedule:
        return ChosenLayers(self.layers, self.share)
