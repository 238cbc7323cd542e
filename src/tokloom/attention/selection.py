"""Selection over a full cache, in three parts that can be exchanged: scorer, picker, schedule.

A scorer rates the slots of the past against the queries (exactly, or over a small index), a picker takes some of them,
a schedule says where and when that is done anew. A method is a `Selecting` policy whose own parts are its paper's; any
part of it can be that of another one: ``fasa:picker=top_p``, ``select:scorer=quest,schedule=tidal_decode``, or with
options of its own ``select:scorer="fasa:chunks=8"``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tokloom import registry
from tokloom._core import Index, LayerPlan
from tokloom.attention.scores import Scores, Span, largest, scores_of_slots
from tokloom.attention.stage import AttentionPolicy, Calibration
from tokloom.errors import SpecError

if TYPE_CHECKING:
    from tokloom.attention.kv_layer import KVLayer


class Part(ABC):  # noqa: B024 - a base without a part of its own
    """One of the three. Immutable, with a `repr` that says what it does; what it keeps of a layer lies in the layer."""

    @property
    def calibrates(self) -> bool:
        """It has a `calibrate`."""
        return type(self).calibrate is not Part.calibrate

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `AttentionPolicy.calibrate`."""
        return {}

    def conclude(self, found: Calibration) -> Calibration:
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

    def room(self, seen: int, local: int) -> int:
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

    def planned(self, layer: KVLayer, plan: LayerPlan) -> None:
        """As `AttentionPolicy.planned`."""


@dataclass(frozen=True)
class ExactScores(Scorer):
    """The attention's own scores q k / sqrt(d): the sum of the softmaxes of the heads that share a choice.

    shared: one choice for all KV heads.
    """

    shared: bool = False

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        shared = self.shared and (among is None or among.shape[1] == 1)
        return scores_of_slots(layer, queries, span, shared=shared, among=among)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        return Index(scale=layer.width**-0.5, shared=self.shared and not narrowed)


@dataclass(frozen=True)
class TopK(Picker):
    """The best `budget` slots, or as many pages as are in the budget."""

    def pick(self, layer: KVLayer, scores: Scores, budget: int) -> torch.Tensor:
        return best_slots(scores, min(budget // scores.page, scores.items))

    def lower(self, layer: KVLayer, plan: LayerPlan, index: Index, budget: int) -> bool:
        plan.choose(index, budget)
        return True


@dataclass(frozen=True)
class Always(Schedule):
    """In every layer, for every token."""

    def choose(self, layer: KVLayer, queries: torch.Tensor, fresh: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        return fresh()

    def lower(self, layer: KVLayer, plan: LayerPlan, fresh: Callable[[], bool]) -> bool:
        return fresh()


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


@pydantic_dataclass(
    frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)
)
class Selecting(AttentionPolicy):
    """Attends to sinks, a local window and what its parts choose between them; keeps every key and value.

    The rows of a draft tree choose one by one, so that speculation changes no token.
    """

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")

    budget: int = Field(default=256, ge=3)
    """Tokens that a query attends to per KV head, itself included."""
    sink: int = Field(default=4, ge=0)
    """First tokens of the text, always attended."""
    local: int = Field(default=32, ge=1)
    """Last tokens, always attended; the query itself is one of them."""
    dense_layers: int = Field(default=0, ge=0)
    """Layers from the first on that attend to everything."""
    prompt: bool = Field(default=False)
    """Select in the prompt too, neighbouring rows together by their mean query; else it attends to everything."""
    prompt_rows: int = Field(default=64, ge=1)
    """Rows that choose together where the prompt selects."""
    scorer: str | None = Field(default=None)
    """The method whose scorer is used instead of this one's own."""
    picker: str | None = Field(default=None)
    """The method whose picker is used."""
    schedule: str | None = Field(default=None)
    """The method whose schedule is used."""

    def __post_init__(self) -> None:
        name = getattr(self, "name", "select")
        if self.budget <= self.sink + self.local:
            raise SpecError(
                f"{name}:budget", self.budget, f"more than sink + local ({self.sink} + {self.local})",
                "Raise the budget, or lower sink and local.",
            )  # fmt: skip
        _ = self._scorer, self._picker, self._schedule  # a wrong name is refused here, not in the first request

    # --- the parts

    def own_scorer(self) -> Scorer:
        return ExactScores()

    def own_picker(self) -> Picker:
        return TopK()

    def own_schedule(self) -> Schedule:
        return Always()

    def probe(self, queries: torch.Tensor) -> torch.Tensor:
        """What neighbouring rows of a prompt ask with, (batch, heads, 1, head_dim), made of their queries."""
        return queries.mean(2, keepdim=True)

    def _other(self, part: str) -> Selecting:
        spec = getattr(self, part)
        return self if spec is None else registry.build(spec, Selecting, f"{self.name}:{part}")

    @cached_property
    def _scorer(self) -> Scorer:
        return self._other("scorer").own_scorer()

    @cached_property
    def _picker(self) -> Picker:
        return self._other("picker").own_picker()

    @cached_property
    def _schedule(self) -> Schedule:
        return self._other("schedule").own_schedule()

    @property
    def _calibrating(self) -> list[Part]:
        return [part for part in (self._scorer, self._picker, self._schedule) if part.calibrates]

    # --- hooks

    def room(self, seen: int) -> int:
        # Drafted tokens must all lie in the local window of the last one, and all on one side of the budget.
        room = self._scorer.room(seen, self.local)
        return room if seen >= self.budget else min(room, self.budget - seen)

    def pooled(self, queries: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """The queries of a prompt's chunk, (batch, heads, rows, head_dim), as fewer ones that choose for neighbouring
        rows, and how many rows each stands for."""
        parts = torch.split(queries, self.prompt_rows, dim=2)
        return torch.cat([self.probe(part) for part in parts], dim=2), [part.shape[2] for part in parts]

    @property
    def calibrates(self) -> bool:
        return bool(self._calibrating)

    @property
    def calibration_key(self) -> str:
        return "; ".join(map(repr, self._calibrating))

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: found for part in self._calibrating for name, found in part.calibrate(layer, queries).items()}

    def conclude(self, found: Calibration) -> Calibration:
        for part in self._calibrating:
            found = part.conclude(found)
        return found

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        step = layer.step
        if layer.seen + 1 <= self.budget or layer.index < self.dense_layers:
            return None
        chunk = step.prompt and step.rows > 1
        if chunk:
            if not self.prompt:
                return None
            queries, lengths = self.pooled(queries)

        def fresh() -> torch.Tensor:
            span = self._span(layer, 1 if chunk else step.rows)
            left = self.budget - self.sink - self.local
            if span.last <= span.begin:
                return torch.full((queries.shape[0], 1, 1, 1), -1, device=queries.device)
            if not chunk:
                return self._picker.pick(layer, self._scorer.score(layer, queries, span, left), left)
            span = Span(span.begin, span.ends.expand(len(lengths)).contiguous(), span.last)  # that of the first row
            picked = self._picker.pick(layer, self._scorer.score(layer, queries, span, left), left)
            if len(lengths) == 1:
                return picked
            return picked.repeat_interleave(torch.tensor(lengths, device=picked.device), dim=2)

        middle = self._schedule.choose(layer, queries, fresh)
        if middle is None:
            return None
        ends = self._ends(layer, 1 if chunk else step.rows)
        rows = max(middle.shape[2], ends.shape[2])
        return self.placed(
            layer, torch.cat([part.expand(*middle.shape[:2], rows, -1) for part in (ends, middle)], dim=-1)
        )

    def placed(self, layer: KVLayer, tokens: torch.Tensor) -> torch.Tensor:
        """The slots of tokens, int64 (batch, kv_heads or 1, rows, n), -1 for none: a token's slot is its position.
        `plan` knows of no others."""
        return tokens

    def plan(self, layer: KVLayer) -> LayerPlan | None:
        if type(self).select is not Selecting.select:
            return None
        step = layer.step
        if layer.seen + 1 <= self.budget or layer.index < self.dense_layers:
            return LayerPlan()
        if step.prompt and step.rows > 1:
            return None if self.prompt else LayerPlan()
        span = self._span(layer, step.rows)
        if layer.holes is not None or span.last <= span.begin:
            return None
        plan = LayerPlan(self.sink, self.local)
        left = self.budget - self.sink - self.local

        def fresh() -> bool:
            index = self._scorer.lower(layer, plan, span, left)
            return index is not None and self._picker.lower(layer, plan, index, left)

        return plan if self._schedule.lower(layer, plan, fresh) else None

    def planned(self, layer: KVLayer, plan: LayerPlan) -> None:
        self._schedule.planned(layer, plan)

    def _span(self, layer: KVLayer, rows: int) -> Span:
        """Between sinks and each row's local window."""
        step = layer.step
        key = ("span", rows)
        if key not in step.shared:
            ends = (step.row_positions[:rows] - self.local + 1).clamp_max(layer.past)
            step.shared[key] = Span(self.sink, ends, max(0, int(ends.max())))
        span: Span = step.shared[key]
        return span

    def _ends(self, layer: KVLayer, rows: int) -> torch.Tensor:
        """Sinks and what of the local window lies in the past: int64 (1, 1, rows, sink + local), -1 for none."""
        step = layer.step
        key = ("ends", rows)
        if key not in step.shared:
            positions = step.position_ids[:rows, None]
            local = positions - torch.arange(self.local - 1, -1, -1, device=positions.device)
            local = local.masked_fill((local >= layer.past) | (local < self.sink), -1)
            sinks = torch.arange(self.sink, device=positions.device).expand(rows, -1)
            step.shared[key] = torch.cat([sinks, local], dim=-1)[None, None]
        ends: torch.Tensor = step.shared[key]
        return ends
