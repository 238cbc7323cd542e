"""Selection over a full cache, in three parts that can be exchanged: scorer, picker, schedule.

A scorer rates the slots of the past against the queries (exactly, or over a small index), a picker takes some of them,
a schedule says where and when that is done anew. A method is a `Selecting` policy whose own parts are its paper's; any
part of it can be that of another one: ``fasa:picker=top_p``, ``select:scorer=quest,schedule=tidal_decode``, or with
options of its own ``select:scorer="fasa:chunks=8"``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tokloom import registry
from tokloom._core import Index, LayerPlan
from tokloom.attention.policy import AttentionPolicy, Calibration
from tokloom.attention.selection.key_scores import KeyScores
from tokloom.attention.selection.parts import Part, Picker, Schedule, Scorer, best_slots
from tokloom.attention.selection.scores import Scores, Span
from tokloom.errors import SpecError

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


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


@pydantic_dataclass(
    frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)
)
class Selecting(AttentionPolicy):
    """Attends to sinks, a local window and what its parts choose between them; keeps every key and value.

    The rows of a draft tree choose one by one, so that speculation changes no token.
    """

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")
    example: ClassVar[dict[str, Any]] = {"budget": 24, "sink": 2, "local": 8}

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
    prompt_budget: int = Field(default=512, ge=0)
    """Tokens that rows of a prompt attend to where it selects, if that is more than `budget`; it selects once twice as
    many have been read, for before that attending to all of them takes no longer."""
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
        return KeyScores()

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

    def max_draft_tokens(self, seen: int) -> int:
        # Drafted tokens must all lie in the local window of the last one, and all on one side of the budget.
        max_draft_tokens = self._scorer.max_draft_tokens(seen, self.local)
        return max_draft_tokens if seen >= self.budget else min(max_draft_tokens, self.budget - seen)

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

    def finish_calibration(self, found: Calibration) -> Calibration:
        for part in self._calibrating:
            found = part.finish_calibration(found)
        return found

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        step = layer.step
        if self._dense(layer):
            return None
        chunk = step.prompt and step.rows > 1
        if chunk:
            queries, lengths = self.pooled(queries)
        budget = self._prompt_budget if chunk else self.budget

        def fresh() -> torch.Tensor:
            span = self._span(layer, 1 if chunk else step.rows)
            left = budget - self.sink - self.local
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
        if self._dense(layer):
            return LayerPlan()
        if step.prompt and step.rows > 1:
            return None
        span = self._span(layer, step.rows)
        if layer.holes is not None or span.last <= span.begin:
            return None
        plan = LayerPlan(self.sink, self.local)
        left = self.budget - self.sink - self.local

        def fresh() -> bool:
            index = self._scorer.lower(layer, plan, span, left)
            return index is not None and self._picker.lower(layer, plan, index, left)

        return plan if self._schedule.lower(layer, plan, fresh) else None

    def after_plan(self, layer: KVLayer, plan: LayerPlan) -> None:
        self._schedule.after_plan(layer, plan)

    @property
    def _prompt_budget(self) -> int:
        return max(self.budget, self.prompt_budget)

    def _dense(self, layer: KVLayer) -> bool:
        """Whether all rows of this pass attend to everything."""
        if layer.step.prompt and layer.step.rows > 1 and not (self.prompt and layer.seen >= 2 * self._prompt_budget):
            return True
        return layer.seen + 1 <= self.budget or layer.index < self.dense_layers

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
