"""The three parts of a selection, and what they have in common: how the best of the scores become slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch

from tokloom._core import Index, LayerPlan
from tokloom.attention.policy import Calibration
from tokloom.attention.selection.scores import Scores, Span, largest

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


class Part(ABC):  # noqa: B024 - a base without a part of its own
    """One of the three. Immutable, with a `repr` that says what it does; what it keeps of a layer lies in the layer."""

    @property
    def calibrates(self) -> bool:
        """It has a `calibrate`."""
        return type(self).calibrate is not Part.calibrate

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `AttentionPolicy.calibrate`."""
        return {}

    def finish_calibration(self, found: Calibration) -> Calibration:
        """As `AttentionPolicy.conclude`."""
        return found


class Scorer(Part):
    """Rates slots."""

    @abstractmethod
    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        """Scores of the slots that each row may choose.

        Args:
            queries: (batch, heads, rows, head_dim), rotated.
            budget: how many slots will be picked; for scorers that first narrow down.
            among: int64 (batch, kv_heads or 1, rows or 1, n), -1 for none: score these slots only. A scorer of pages
                need not serve it: see `by_slot`.
        """

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        """What of `score` the core can do by itself: adds steps to the layer's plan and returns what is scored in the
        end; None if it can't. An index has all of the span before the pass begins.

        narrowed: steps before have narrowed down what each KV head chooses from."""
        return None

    def max_draft_tokens(self, seen: int, local: int) -> int:
        """How many tokens may be drafted, with `seen` in the cache, without that what the scorer knows of a drafted
        token's span depends on the draft. A draft of `local` tokens lies in the last one's local window."""
        return local

    by_slot: ClassVar[bool] = True
    """Serves `among`, so that other scorers can narrow down for it."""


class Picker(Part):
    """Takes slots by their scores."""

    @abstractmethod
    def pick(self, layer: KVLayer, scores: Scores, budget: int) -> torch.Tensor:
        """At most `budget` slots of each row: int64 (batch, kv_heads or 1, rows, n), -1 for none, each slot once."""

    def lower(self, layer: KVLayer, plan: LayerPlan, index: Index, budget: int) -> bool:
        """Adds to the plan what `pick` does with the scores of this index; False if the core can't."""
        return False


class Schedule(Part):
    """Says when slots are picked anew."""

    @abstractmethod
    def choose(self, layer: KVLayer, queries: torch.Tensor, fresh: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        """What the picker gave for these rows, now or earlier: int64 (batch, kv_heads or 1, rows, n).

        queries: (batch, heads, rows, head_dim), or a prompt chunk's probe as one row.
        fresh: picks anew, for all rows.

        None: this layer attends densely."""

    def lower(self, layer: KVLayer, plan: LayerPlan, fresh: Callable[[], bool]) -> bool:
        """Lays out for the core what `choose` does; False if that can't be.

        fresh: adds what scorer and picker do to the plan, False if they can't be laid out."""
        return False

    def after_plan(self, layer: KVLayer, plan: LayerPlan) -> None:
        """As `AttentionPolicy.after_plan`."""


def slots_of(scores: Scores, places: torch.Tensor) -> torch.Tensor:
    """The slots of picked items: `places` int64 (batch, kv_heads or 1, rows, k), -1 for none."""
    if scores.slots is not None:
        slots = scores.slots.expand(*places.shape[:-1], scores.slots.shape[-1])
        places = slots.gather(-1, places.clamp_min(0)).masked_fill(places < 0, -1)
    if scores.page == 1:
        return places
    within = torch.arange(scores.page, device=places.device)
    slots = (places[..., None] * scores.page + within).flatten(-2)
    span = scores.span
    if span is None:
        return slots.masked_fill(slots < 0, -1)
    ends = span.ends.to(slots.device)[:, None]
    return slots.masked_fill((slots < span.begin) | (slots >= ends), -1)


def best_slots(scores: Scores, k: int, counts: torch.Tensor | None = None) -> torch.Tensor:
    """The slots of the best `k` items of each row: int64 (batch, kv_heads or 1, rows, n), -1 for none.

    counts: int32 (rows,), at most `k`, where rows take different numbers."""
    if scores.select is not None:
        return scores.select(k, counts, 0.0)
    if counts is None:
        return slots_of(scores, largest(scores.values, k))
    places, _ = best_first(scores, k * scores.page)
    return slots_of(scores, prefix(places, counts.to(places.device).expand(places.shape[:-1])))


def shares_of(scores: Scores) -> torch.Tensor:
    """What share of the attention between sinks and local window each item has by its score, as `scores.values`; each
    row's sum to 1. What is always taken has none."""
    values = scores.values.masked_fill(scores.values == torch.inf, -torch.inf)
    if not scores.shares:
        highest = values.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
        values = (values - highest).exp_()
    values = values.clamp_min_(0)
    return values / values.sum(-1, keepdim=True).clamp_min(1e-30)


def best_first(scores: Scores, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best items within the budget in falling order, what is always taken first, and their shares.

    Returns:
        places, int64 (batch, kv_heads or 1, rows, k), -1 for none, and `shares_of` them, 0 for none.
    """
    places = largest(scores.values, min(budget // scores.page, scores.values.shape[-1]))
    rated = scores.values.gather(-1, places.clamp_min(0)).masked_fill(places < 0, -torch.inf)
    places = places.gather(-1, rated.argsort(dim=-1, descending=True, stable=True))
    return places, shares_of(scores).gather(-1, places.clamp_min(0)).masked_fill(places < 0, 0)


def prefix(places: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The first `keep` places of each row, int64 (batch, kv_heads or 1, rows): -1 after them, no wider than needed."""
    width = int(keep.max()) if keep.numel() else 0
    rank = torch.arange(width, device=places.device)
    return places[..., :width].masked_fill(rank >= keep[..., None], -1)
