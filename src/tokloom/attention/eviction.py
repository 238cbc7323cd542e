"""What evicting methods share: a budget of slots per KV head, and when it is enforced."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tokloom.attention.policy import AttentionPolicy
from tokloom.attention.selection.scores import largest
from tokloom.errors import SpecError

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Evicting(AttentionPolicy):
    """Drops slots for good after every prompt chunk and after every `interval` decoded tokens.

    Memory is bounded by the budget and one chunk. Nothing is dropped between two evictions, so that a draft tree
    attends to the very slots that single steps would.
    """

    example: ClassVar[dict[str, Any]] = {"budget": 24, "interval": 4}

    budget: int = Field(default=512, ge=2)
    """Slots kept per KV head."""
    interval: int = Field(default=16, ge=1)
    """Tokens between two evictions while decoding, each down to budget - interval; papers evict at every token."""

    def __post_init__(self) -> None:
        if self.interval > self.budget // 2:
            name = getattr(self, "name", "evicting")
            raise SpecError(
                f"{name}:interval", self.interval, f"at most half the budget ({self.budget // 2})",
                "Raise the budget, or lower the interval.",
            )  # fmt: skip

    @property
    def size(self) -> int:
        """Slots left after an eviction."""
        return self.budget - self.interval

    @abstractmethod
    def kept(self, layer: KVLayer) -> torch.Tensor:
        """`size` of the more than `size` slots: int64 (batch, kv_heads, size), ascending. KV heads may keep different
        numbers, `size` on average, with -1 at the front of a row."""

    def max_draft_tokens(self, seen: int) -> int:
        return self.interval - seen % self.interval

    def max_slots(self, layer: KVLayer) -> int:
        return self.budget

    def evict(self, layer: KVLayer) -> torch.Tensor | None:
        return None if layer.held <= self.size else self.kept(layer)


def group_sum(weights: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Attention (batch, heads, rows, slots) summed over rows and the query heads of each KV head: float32
    (batch, kv_heads, slots)."""
    batch, _, _, slots = weights.shape
    return weights.reshape(batch, kv_heads, -1, slots).sum(2, dtype=torch.float32)


def best(layer: KVLayer, score: torch.Tensor, size: int | torch.Tensor, sink: int, recent: int) -> torch.Tensor:
    """The text's first `sink` tokens, the `recent` newest, and of the rest those with the highest score.

    Args:
        score: float32 (batch, kv_heads, slots). Of equal ones the older is taken.
        size: how many in all; a tensor (batch, kv_heads) where heads differ.

    Returns:
        int64 (batch, kv_heads, size or the largest size), ascending, -1 at the front of heads with fewer.
    """
    positions = layer.positions
    score = score.masked_fill((positions >= 0) & (positions < sink), torch.inf)
    score[..., layer.count - recent :] = torch.inf
    if layer.holes is not None:
        score.masked_fill_(positions < 0, -torch.inf)
    elif isinstance(size, int):
        return largest(score, size)
    sizes = torch.as_tensor(size, device=score.device)
    ranked, order = score.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(layer.count, device=score.device)
    taken = (rank < sizes[..., None]) & (ranked > -torch.inf)
    chosen = order.masked_fill(~taken, -1).sort(-1).values
    return chosen[..., layer.count - int(sizes.max()) :]


def apportion(demand: torch.Tensor, size: int, minimum: int) -> torch.Tensor:
    """Divides `size` slots a KV head by demand (batch, kv_heads), none below `minimum`: int64 (batch, kv_heads), whose
    mean over the heads is `size`. What rounding leaves goes to the largest fractions."""
    heads = demand.shape[-1]
    demand = demand.double().clamp_min(1e-9)
    exact = (size - minimum) * heads * demand / demand.sum(-1, keepdim=True)
    whole = exact.floor()
    left = ((size - minimum) * heads - whole.sum(-1, keepdim=True)).round()
    rank = (exact - whole).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (minimum + whole + (rank < left)).long()


def observe_window(layer: KVLayer, weights: torch.Tensor, window: int) -> None:
    """Adds to slot memory "votes" the attention that slots draw from an observation window: the last `window` queries
    of a prompt (a shorter chunk takes over as much of what came before it), then those that are decoded.

    weights: (batch, heads, rows, slots)."""
    votes = layer.slot_memory("votes")
    if layer.step.prompt:
        votes.mul_(max(0.0, 1 - weights.shape[2] / window))
        weights = weights[:, :, -window:]
    votes.add_(group_sum(weights, layer.kv_heads))


def end_window(layer: KVLayer) -> None:
    """While decoding, the queries between two evictions are a window of their own."""
    if not layer.step.prompt:
        layer.slot_memory("votes").zero_()
