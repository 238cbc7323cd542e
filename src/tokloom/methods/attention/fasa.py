"""FASA scores tokens by the few rotary frequencies whose ranking agrees best with that of the whole head.

Paper: P22. FASA: Frequency-aware Sparse Attention. arXiv:2602.03152
Formula: RoPE turns dimensions i and i + d/2 together, chunk i; q k = sum over i of s_i, s_i = q_i k_i + q_{i+d/2}
    k_{i+d/2}. Contextual agreement CA_i = |top-K by s_i  and  top-K by q k| / K, the mean over queries that read a
    passage of the calibration text for the second time. Step: score(j) = sum of s_i over the `chunks` of highest CA;
    attend to the best tokens exactly.
Shapes: chosen dimensions (kv_heads, 2 chunks), index (batch, kv_heads, slots, 2 chunks), scores (batch, kv_heads,
    rows, slots).
Effect: the paper keeps full accuracy with 256 tokens and a quarter of the frequencies. Here, with 160 of 1,812 slots of
    a book, recall of the dense top-k is 0.74, and the choice holds 0.93 of its attention; with 12 of 32 chunks 0.68 and
    0.91, with 8, as in the paper, 0.61 and 0.86, by bytes as by bf16 and float32. At 96 of 960 slots (one number of
    four / three numbers) SmolLM2-135M keeps 0.97 / 1.01 of the digits that dense attention ranks first (20 examples
    each), with 12 chunks 0.99 / 1.01; of 15 others with 8 chunks 0.98 / 0.97, with 12 1.00 / 1.01, with 16 0.98 / 1.01.
    Gemma-3-270M keeps 1.02 / 1.00 (16 examples each). With its one KV head of 256 dimensions it takes more than their
    number (one number of four, 10 examples): 0.17 with 8 of 128 chunks, 0.51 with 32 of them, 0.69 with figures in the
    calibration text, 0.94 with look-ups for queries, and 1.03 with chunks by query head. With 768 of 7,680 slots a
    token took 15 ms and 25 densely, with 8 chunks 14 (two threads; 12 chunks, whose 24 dimensions fill no whole
    registers, 19); attention alone, over 32,768 keys, 19 ms and 83 densely.
Differs: chunks are chosen per KV head, since its query heads share the keys: each one's best, then each one's second,
    until there are `chunks`. So are tokens, by the sum of the heads' softmaxes. The chosen dimensions are copied
    together, without their mean in the calibration text, in int8 with a scale for each key: half of the chunks take 36
    bytes of a key that takes 256 in float32; the copy is kept beside the keys (the paper's FASA-C reads them in place).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.attention.calibration import REPEATED
from tokloom.attention.selection.page_index import PageIndex
from tokloom.attention.selection.parts import Scorer
from tokloom.attention.selection.scores import Scores, Span, scores_of_slots
from tokloom.attention.selection.selecting import Selecting
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer

SAMPLES = 48
"""Calibration queries, all of them of the passage that is read a second time."""
SKIPPED = 4
"""Calibration keys left out: the attention sink is every chunk's favourite."""
SHARE = 2
"""One chunk in so many is taken where their number is not given: 16 for heads of 64 dimensions (the paper takes 8)."""


@dataclass(frozen=True)
class DominantChunks(Scorer):
    """State in the layer: note "chunks", the chosen dimensions of keys. Calibration: "dims" (kv_heads, 2 chunks),
    "query_dims" (heads, 2 chunks), the same for each query head, and "centre" (kv_heads, 2 chunks), their mean."""

    chunks: int | None

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        rated = agreement(*sample(layer.keys[0], queries[0]))
        kv_heads, half = layer.kv_heads, rated.shape[-1]
        chunks = max(1, half // SHARE) if self.chunks is None else min(self.chunks, half)
        best = dominant(rated.view(kv_heads, -1, half), chunks)
        dims = torch.cat([best, best + half], dim=-1)
        return {
            "dims": dims,
            "query_dims": dims.repeat_interleave(rated.shape[0] // kv_heads, dim=0),
            "centre": layer.keys[0].float().mean(1).gather(-1, dims),
        }

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        index = self._index(layer, span)
        of_queries = layer.calibration["query_dims"][None, :, None]
        parts = queries.float().gather(-1, of_queries.expand(*queries.shape[:3], -1))
        scale = queries.shape[-1] ** -0.5
        return scores_of_slots(layer, parts, span, keys=index.entries, scale=scale, among=among)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        of_queries = layer.calibration["query_dims"]
        return self._index(layer, span).lowered(layer.width**-0.5, map="elements", table=of_queries.data_ptr())

    def _index(self, layer: KVLayer, span: Span) -> PageIndex:
        of_keys, centre = (layer.calibration[name][None, :, None] for name in ("dims", "centre"))

        def chosen(keys: torch.Tensor) -> torch.Tensor:
            keys = keys[:, :, :, 0].float()
            return keys.gather(-1, of_keys.expand(*keys.shape[:3], -1)) - centre  # a softmax does not see the centre

        return PageIndex.of(layer, f"chunks {self.chunks}", 1, chosen, span.last, "int8")


def sample(keys: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (kv_heads, n, d) of the first half of a text and queries (heads, SAMPLES, d) that read a passage of it for
    the second time, in float32."""
    tokens = keys.shape[1]
    rows = torch.linspace(tokens - tokens // REPEATED, tokens - 1, SAMPLES, device=keys.device).long()
    return keys[:, min(SKIPPED, tokens // 4) : tokens // 2].float(), queries[:, rows].float()


def agreement(keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Contextual agreement of each chunk, (heads, d / 2), for K a sixteenth of the keys."""
    heads, half = queries.shape[0], queries.shape[-1] // 2
    keys = keys.repeat_interleave(heads // keys.shape[0], dim=0)
    k = max(1, keys.shape[1] // 16)
    whole = queries @ keys.transpose(1, 2)  # (heads, samples, n)
    among_best = torch.zeros_like(whole, dtype=torch.bool).scatter_(-1, whole.topk(k, dim=-1).indices, True)
    rated = []
    for i in range(half):
        part = queries[..., [i, i + half]] @ keys[..., [i, i + half]].transpose(1, 2)
        rated.append(among_best.gather(-1, part.topk(k, dim=-1).indices).float().mean((1, 2)))
    return torch.stack(rated, dim=-1)


def dominant(rated: torch.Tensor, chunks: int) -> torch.Tensor:
    """The chunks for each KV head, ascending: its query heads' best ones, then their second ones, and so on; of those
    that come equally early the ones that suit all of them most. rated: (kv_heads, group, d / 2)."""
    places = rated.argsort(dim=-1, descending=True, stable=True).argsort(-1)  # in each query head's order
    earliest = places.amin(1).float() - rated.mean(1) / 2  # agreement is at most 1
    return earliest.topk(chunks, dim=-1, largest=False).indices.sort(-1).values


@method(stage="attention")
class FASA(Selecting):
    """Scores over dominant frequency chunks, top-k."""

    chunks: int | None = Field(default=None, ge=1)
    """Frequency chunks per KV head, of head_dim / 2; half of them if left out."""

    def own_scorer(self) -> Scorer:
        return DominantChunks(self.chunks)
