"""Random eviction keeps sinks, the most recent tokens, and of all others a uniform random sample.

Paper: none (baseline)
Formula: every token has a random priority for each layer and KV head, a hash of its position and the seed; keep sinks
    and the `recent` newest tokens and, of the rest, those with the highest priority, `budget` in all.
Shapes: priorities (batch, kv_heads, slots).
Effect: the control for methods that choose by attention: as many slots, as many of them recent, the others by chance.
    As priorities never change, what is kept of the older text is at any time a uniform sample of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.eviction import Evicting, best
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer

_MIXERS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)  # odd 32-bit multipliers
_MASK = 2**32 - 1


def priorities(positions: torch.Tensor, seed: int, layer: int) -> torch.Tensor:
    """Uniform in [0, 1), float32, by position (batch, kv_heads, slots), KV head, layer and seed."""
    heads = torch.arange(positions.shape[1], device=positions.device)[:, None]
    bits = positions.long() + ((heads + layer * 4096) << 20) + seed * _MIXERS[0]
    for multiplier in _MIXERS:  # products of 31 and 32 bits don't overflow
        bits = ((bits ^ (bits >> 15)) & (_MASK >> 1)) * multiplier & _MASK
    return (bits >> 8).float() / 2**24


@method(stage="attention")
class RandomEviction(Evicting):
    """No state: priorities are computed from the positions."""

    example: ClassVar[dict[str, Any]] = {**Evicting.example, "sink": 2}

    sink: int = Field(default=4, ge=0)
    """First tokens of the text that are always kept."""
    recent: float = Field(default=0.5, ge=0, le=1)
    """Share of the kept slots that goes to the newest tokens."""
    seed: int = Field(default=0, ge=0, lt=2**30)
    """Draws the priorities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sink + round(self.recent * self.size) > self.size:
            left = self.size - round(self.recent * self.size)
            raise SpecError("random_eviction:sink", self.sink, f"at most what `recent` leaves of the budget ({left})")

    def kept(self, layer: KVLayer) -> torch.Tensor:
        score = priorities(layer.positions, self.seed, layer.index)
        return best(layer, score, self.size, self.sink, round(self.recent * self.size))
