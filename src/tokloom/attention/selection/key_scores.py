"""Scores by the keys themselves or by an int8 copy of them, a quarter of the bytes of keys in float32.

The copy has one scale for each key (of a KV head) and lacks the mean of the first keys, which is large beside what
tells keys apart and which a softmax does not see. On SmolLM2-135M 99% of the best 600 of 6,000 slots are the same by
both, and those chosen by the copy hold 99.99% of what the best hold of the attention; on Gemma-3-270M 97 to 99%, and
99.91 to 99.99%.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from tokloom._core import Index
from tokloom.attention.selection.page_index import PageIndex
from tokloom.attention.selection.parts import Scorer
from tokloom.attention.selection.scores import Scores, Span, scores_of_slots
from tokloom.kv.precision import Plain

if TYPE_CHECKING:
    from tokloom._core import LayerPlan
    from tokloom.kv.layer import KVLayer

Source = Literal["int8", "keys"]
"""What is scored: an int8 copy of the keys, which takes that many bytes more, or the keys."""

FIRST = 32
"""Keys whose mean is left out of the copy."""


def copy_of_keys(layer: KVLayer, span: Span, source: Source) -> KeyCopy | None:
    """The copy, of the span's slots at least; None where the keys are scored themselves: by wish, where they are
    quantized, and where the core does not score them, so that a copy would have to be unpacked for each query."""
    if source == "keys" or layer.core is None or not isinstance(layer.slots.precision, Plain):
        return None
    return KeyCopy.of(layer, "int8 keys", 1, Centred(), span.last, "int8")


class KeyCopy(PageIndex):
    """All keys of the past, centred."""

    def rewind(self, slots: int) -> None:
        super().rewind(slots)
        if self.count < FIRST:  # what was left out may not have been of the text that goes on from here
            self.count, self._held, self._describe = 0, [], Centred()


class Centred:
    """Keys without the mean of the first ones that it is given: of 32, or of the largest power of 2 that there is."""

    def __init__(self) -> None:
        self.centre: torch.Tensor | None = None

    def __call__(self, keys: torch.Tensor) -> torch.Tensor:
        """Keys (batch, kv_heads, n, 1, d) as (batch, kv_heads, n, d)."""
        keys = keys[:, :, :, 0].float()
        if self.centre is None:
            first = min(FIRST, 1 << (keys.shape[2].bit_length() - 1))
            self.centre = keys[:, :, :first].mean(2, keepdim=True)
        return keys - self.centre


def scores_by(layer: KVLayer, queries: torch.Tensor, span: Span, source: Source, **how: Any) -> Scores:
    """How: as of `scores_of_slots`."""
    copy = copy_of_keys(layer, span, source)
    return scores_of_slots(layer, queries, span, keys=None if copy is None else copy.entries, **how)


def index_by(layer: KVLayer, span: Span, source: Source, shared: bool) -> Index:
    """As `scores_by`, for the core."""
    copy, scale = copy_of_keys(layer, span, source), layer.width**-0.5
    return Index(scale=scale, shared=shared) if copy is None else copy.lowered(scale, shared=shared)


@dataclass(frozen=True)
class KeyScores(Scorer):
    """The attention's own scores q k / sqrt(d): the sum of the softmaxes of the heads that share a choice.

    shared: one choice for all KV heads.
    """

    shared: bool = False
    source: Source = "keys"

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        shared = self.shared and (among is None or among.shape[1] == 1)
        return scores_by(layer, queries, span, self.source, shared=shared, among=among)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        return index_by(layer, span, self.source, self.shared and not narrowed)
