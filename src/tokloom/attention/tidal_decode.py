"""TidalDecode scores all keys in a few layers only; the layers between attend to what the last of these chose.

Paper: P52. TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse Attention. arXiv:2410.05076
Formula: layers below `first` attend densely. Layer `first` and each of `corrections` attend densely too, and choose the
    k slots with the largest sum of attention over the query heads of a KV head; every other layer attends to the slots
    that the nearest such layer before it chose, head by head.
Shapes: q (batch, heads, rows, d), choice (batch, kv_heads, rows, k), handed on within a pass.
Effect: the paper decodes up to 2.1 times faster with needles found at 1% of the tokens. Here selection is computed in
    1 + len(corrections) layers, needles are read at 10% of the slots, and the time of the others falls to the budget's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.attention.selection import Schedule, Selecting
from tokloom.attention.stage import AttentionPolicy
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.attention.kv_layer import KVLayer


@dataclass(frozen=True)
class ChosenLayers(Schedule):
    """Chooses in some layers, which attend densely, for those after them.

    layers: a layer that has no attention of this kind (one with a sliding window) leaves the choice to the next.
    """

    layers: tuple[int, ...]

    def choose(self, layer: KVLayer, queries: torch.Tensor, fresh: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        shared = layer.step.shared
        last, choice = shared.get("choice", (-1, None))
        if any(last < chosen <= layer.index for chosen in self.layers):
            shared["choice"] = layer.index, fresh()
            return None
        handed_on: torch.Tensor | None = choice
        return handed_on


@method(stage="attention")
class TidalDecode(Selecting, AttentionPolicy):
    """Selection in a few layers, handed on to the others."""

    first: int = Field(default=2, ge=0)
    """The first layer that chooses; those before it attend densely."""
    corrections: tuple[int, ...] = Field(default=(13,))
    """Layers that choose again."""

    def __post_init__(self) -> None:
        if any(layer <= self.first for layer in self.corrections):
            raise SpecError("tidal_decode:corrections", self.corrections, f"layers after the first ({self.first})")
        super().__post_init__()

    def own_schedule(self) -> Schedule:
        return ChosenLayers((self.first, *self.corrections))
