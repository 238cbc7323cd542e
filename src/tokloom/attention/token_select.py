"""TokenSelect keeps every key and value and lets each query attend to the few tokens that its heads vote for.

Paper: P25. TokenSelect: Efficient Long-Context Inference and Length Extrapolation for LLMs via Dynamic Token-Level KV
    Cache Selection. arXiv:2411.02886
Formula: vote(j) = sum over heads h of softmax_j(q_h k_j / sqrt(d)) over the tokens between the first `sink` and the
    last `local`; attend to sinks, local window and the top of the vote, `budget` tokens in all. Selection cache: while
    cos(q, q_c) >= `similarity`, q over all heads, the tokens chosen for the earlier query q_c are used again.
    In the prompt a chunk's mean query votes for the whole chunk.
Shapes: q (batch, heads, rows, d), vote (batch, rows, slots), chosen slots (batch, 1, rows, budget).
Effect: the paper attends to 2k of 1M tokens at full accuracy. Here needles in a 1k prompt are read at budgets where
    H2O loses them, attended pairs fall to the budget's share, and no byte of the cache is saved.
Differs: a draft tree's rows select one by one along their own path, so that speculation changes no token. GQA groups
    are contiguous, as in transformers (the authors' code interleaves them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from tokloom.attention.stage import AttentionPolicy
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.attention.kv_store import KVLayer, Step


@method(stage="attention")
class TokenSelect(AttentionPolicy):
    """State in the layer: carry "query" and "middle", the last selection and the query that made it."""

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")

    budget: int = Field(default=256, ge=3)
    """Tokens that a query attends to, itself included."""
    sink: int = Field(default=16, ge=0)
    """First tokens of the text, always attended (the paper's n_init)."""
    local: int = Field(default=64, ge=1)
    """Last tokens, always attended (the paper's n_local); the query itself is one of them."""
    similarity: float = Field(default=0.9)
    """Cosine of queries from which on the last selection is used again; above 1 it is made anew every time."""

    def __post_init__(self) -> None:
        if self.budget <= self.sink + self.local:
            raise SpecError(
                "token_select:budget", self.budget, f"more than sink + local ({self.sink} + {self.local})",
                "Raise the budget, or lower sink and local.",
            )  # fmt: skip

    def room(self, seen: int) -> int:
        # Drafted tokens must all lie in the local window of the last one, and all on one side of the budget.
        return self.local if seen >= self.budget else min(self.local, self.budget - seen)

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        step = layer.step
        if layer.seen + 1 <= self.budget:
            return None
        if step.prompt and step.rows > 1:
            return self._for_chunk(layer, queries)
        voters = queries.transpose(1, 2)  # (batch, rows, heads, d)
        middle = self._vote(layer, voters, step.position_ids)
        flat = voters.flatten(2)
        if "query" in layer.carry:
            sources = self._sources(flat, layer.carry["query"], step)
            flat = torch.cat([layer.carry["query"][:, None], flat], dim=1)[:, sources]
            middle = torch.cat([layer.carry["middle"][:, None], middle], dim=1)[:, sources]
        elif step.parents is not None:
            sources = self._sources(flat, None, step)
            flat, middle = flat[:, [s - 1 for s in sources]], middle[:, [s - 1 for s in sources]]
        layer.carried = {"query": flat, "middle": middle}
        return torch.cat([self._ends(layer, step.position_ids, middle.shape[0]), middle], dim=-1)[:, None]

    def _for_chunk(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor:
        """One selection for all rows of a prompt chunk; its own tokens come on top, causally."""
        mean = queries.mean(2, keepdim=True).transpose(1, 2)
        first = layer.step.position_ids[:1]
        chosen = torch.cat([self._ends(layer, first, mean.shape[0]), self._vote(layer, mean, first)], dim=-1)
        return chosen[:, None]

    def _vote(self, layer: KVLayer, voters: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The top slots between sinks and local window, int64 (batch, rows, k), -1 where there are fewer.

        All slots are kept, so that a slot's index is its position."""
        keys = layer.keys[:, :, : layer.past]
        batch, rows, _, width = voters.shape
        kv_heads = keys.shape[1]
        # (batch, kv_heads, rows * group, d): one product per KV head
        grouped = (
            voters.view(batch, rows, kv_heads, -1, width).permute(0, 2, 1, 3, 4).reshape(batch, kv_heads, -1, width)
        )
        scores = (grouped @ keys.transpose(-1, -2)).view(batch, kv_heads, rows, -1, layer.past) * width**-0.5
        slots = torch.arange(layer.past, device=keys.device)
        between = (slots >= self.sink) & (slots <= positions[:, None] - self.local)  # (rows, past)
        scores = scores.masked_fill(~between[:, None], -torch.inf)
        votes = scores.softmax(-1, dtype=torch.float32).nan_to_num_(0).sum((1, 3))  # (batch, rows, past)
        votes = votes.masked_fill(~between, -1)
        best = votes.topk(min(self.budget - self.sink - self.local, layer.past), dim=-1)
        chosen: torch.Tensor = best.indices.masked_fill(best.values < 0, -1)
        return chosen

    def _ends(self, layer: KVLayer, positions: torch.Tensor, batch: int) -> torch.Tensor:
        """Sinks and what of the local window lies in the past: int64 (batch, rows, sink + local), -1 for none."""
        sinks = torch.arange(self.sink, device=positions.device).expand(positions.shape[0], -1)
        local = positions[:, None] - torch.arange(self.local - 1, -1, -1, device=positions.device)
        local = local.masked_fill((local >= layer.past) | (local < self.sink), -1)
        return torch.cat([sinks, local], dim=-1).expand(batch, -1, -1)

    def _sources(self, queries: torch.Tensor, carried: torch.Tensor | None, step: Step) -> list[int]:
        """For each row where its selection comes from: 0 for the carried one, r + 1 for row r's own.

        queries: (batch, rows, heads * d). A row asks its parent's source first, as single steps would."""
        pool = queries if carried is None else torch.cat([carried[:, None], queries], dim=1)
        unit = torch.nn.functional.normalize(pool.float(), dim=-1)
        close = ((unit @ unit.transpose(-1, -2)).amin(0) >= self.similarity).tolist()
        shift = 0 if carried is not None else 1
        parents = step.parents if step.parents is not None else (-1,)
        sources: list[int] = []
        for row, parent in enumerate(parents):
            source = (0 if carried is not None else -1) if parent < 0 else sources[parent]
            fresh = row + 1
            sources.append(source if source >= 0 and close[fresh - shift][source - shift] else fresh)
        return sources
