"""RTPurbo searches the whole text for retrieval heads only, over a few learnt dimensions, and lets the others see near.

Paper: P4. Full Attention Strikes Back: Transferring Full Attention into Sparse within Hundred Training Steps.
    arXiv:2605.16928
Formula: a KV head's long-range mass is the attention beyond sinks and `window` of queries that read a passage of the
    calibration text for the second time; the `retrieval` share of all KV heads with most of it are retrieval heads, the
    others attend to sinks and local window. Heads of sliding-window layers are among the others.
    Indexer of a retrieval head: q' = A^T q, k' = B^T k of `dims` dimensions; with C_q and C_k the second moments of
    queries and (centred) keys and U S V^T the SVD of C_q^1/2 C_k^1/2, A = C_q^-1/2 U S and B = C_k^-1/2 V give the
    closest q k of that rank; then `steps` steps of Adam on KL(softmax(q k) || softmax(q' k')). Step: top-p (`mass`)
    over softmax(q' k'), at most `budget` tokens.
Shapes: A (heads, d, dims), B (kv_heads, d, dims), index (batch, kv_heads, slots, dims), int8 with a scale for a slot.
Effect: the paper transfers models within some hundred steps, nearly without loss. Here 6.5% of all pairs are attended
    to at 96 of 960 slots. What matters is what it is calibrated on. SmolLM2-135M, ranked on prose in which nothing has
    to be looked up, reads 0.38 of one needle's digits (0.41 with an indexer of all dimensions), and 0.98 (16 examples)
    where a passage is read twice. Gemma-3-270M, one KV head of 256 dimensions, keeps 0.26 of the digits that dense
    attention ranks first (one number of four, 10 examples) with 16 dimensions and 0.77 with 64 if the text has no
    figures, 1.03 with 32 and with 64 if it has. Of others (one number of four / three numbers) SmolLM2-135M keeps 0.97
    / 1.00 (20 examples each), Gemma-3-270M 1.02 / 1.00 (16). With 768 of 7,680 slots a token took 12.5 ms and 25
    densely (two threads); attention alone, over 32,768 keys, 22 ms and 80 densely.
Differs: the indexer works on rotated queries and keys, as the store has them, and is trained once per model on a text
    of 1k tokens in seconds; the model's weights stay as they are. Classes are those of KV heads (the group's largest
    mass), whose query heads share the keys. Local heads keep their keys in the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.attend import attention_weights
from tokloom.attention.calibration import REPEATED
from tokloom.attention.policy import Calibration
from tokloom.attention.selection.page_index import PageIndex
from tokloom.attention.selection.parts import Picker, Scorer
from tokloom.attention.selection.scores import Scores, Span, scores_of_slots
from tokloom.attention.selection.selecting import Selecting
from tokloom.methods.attention.top_p import Nucleus
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import Index, LayerPlan
    from tokloom.kv.layer import KVLayer

SAMPLES = 96
"""Calibration queries."""
SINKS = 4
SHARE = 4
"""The indexer has one dimension for so many of a head where their number is not given."""


@dataclass(frozen=True)
class LowRankIndexer(Scorer):
    """State in the layer: note "low rank", the keys' few dimensions. Calibration: "to_query" (heads, d, dims), "to_key"
    (kv_heads, d, dims), "centre" (kv_heads, dims), the mean of what it makes of keys, "retrieves" (heads,)."""

    dims: int | None
    retrieval: float
    window: int
    steps: int

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        dims = max(1, layer.width // SHARE) if self.dims is None else self.dims
        tokens = queries.shape[2]
        rows = torch.linspace(tokens // 2, tokens - 1, SAMPLES, device=queries.device).long()
        sampled, keys = queries[0, :, rows].float(), layer.keys[0].float()
        looked_up = rows[rows >= tokens - tokens // REPEATED]
        far = long_range_mass(sampled[:, -len(looked_up) :], keys, looked_up, self.window)
        earlier = keys[:, min(SINKS, tokens // 4) : tokens // 2]
        to_query, to_key = closest(queries[0, :, tokens // 2 :].float(), earlier, dims)
        to_query, to_key = train(to_query, to_key, sampled, earlier, self.steps)
        return {"to_query": to_query, "to_key": to_key, "centre": (earlier @ to_key).mean(1), "far": far}

    def finish_calibration(self, found: Calibration) -> Calibration:
        """Names the retrieval heads, ranked over all layers. A layer that slides over a window has nothing here; its
        heads are among the local ones."""
        masses = torch.cat([part["far"] for part in found if part])
        heads = masses.numel() * len(found) // sum(map(bool, found))
        count = min(masses.numel(), max(1, round(self.retrieval * heads)))
        minimum = masses.topk(count).values[-1]
        for part in found:
            if part:
                group = part["to_query"].shape[0] // part["far"].shape[0]
                part["retrieves"] = (part.pop("far") >= minimum).repeat_interleave(group)
        return found

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        found = layer.calibration
        index = self._index(layer, span)
        low = queries.float() @ found["to_query"]
        use = found["retrieves"][:, None].expand(-1, queries.shape[2])
        return scores_of_slots(layer, low, span, keys=index.entries, scale=1.0, among=among, use=use)

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        to_query, retrieves = (layer.calibration[name] for name in ("to_query", "retrieves"))
        index = self._index(layer, span)
        return index.lowered(1.0, map="product", table=to_query.data_ptr(), use=retrieves.data_ptr())

    def _index(self, layer: KVLayer, span: Span) -> PageIndex:
        to_key, centre = layer.calibration["to_key"], layer.calibration["centre"][:, None]

        def low_rank(keys: torch.Tensor) -> torch.Tensor:
            low: torch.Tensor = keys[:, :, :, 0].float() @ to_key - centre  # a softmax does not see the centre
            return low

        return PageIndex.of(layer, f"{self.dims} dims", 1, low_rank, span.last, "int8")


def long_range_mass(queries: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, window: int) -> torch.Tensor:
    """The mean attention of queries (heads, samples, d) at `rows` beyond sinks and window: the largest of each KV
    head's group, (kv_heads,)."""
    slots = torch.arange(keys.shape[1], device=keys.device)
    visible = slots <= rows[:, None]
    weights = attention_weights(queries[None], keys[None], visible[None, None], queries.shape[-1] ** -0.5)[0]
    beyond = (slots >= SINKS) & (slots <= rows[:, None] - window)
    return (weights * beyond).sum(-1).mean(-1).view(keys.shape[0], -1).amax(1)


def closest(queries: torch.Tensor, keys: torch.Tensor, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (heads, d, dims) and B (kv_heads, d, dims) such that (A^T q)(B^T k) is, in the mean square over these queries
    (heads, n, d) and keys (kv_heads, n, d), nearest to q k / sqrt(d) up to a constant for each query."""
    kv_heads, width = keys.shape[0], keys.shape[-1]
    grouped = queries.reshape(kv_heads, -1, width)
    centred = keys - keys.mean(1, keepdim=True)  # a softmax does not see what is the same for all keys
    root_q, inverse_q = _roots(grouped)
    root_k, inverse_k = _roots(centred)
    left, singular, right = torch.linalg.svd(root_q @ root_k)
    to_query = inverse_q @ left[..., :dims] * singular[:, None, :dims] * width**-0.5
    to_key = inverse_k @ right.transpose(1, 2)[..., :dims]
    return to_query.repeat_interleave(queries.shape[0] // kv_heads, dim=0), to_key


def _roots(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The square root of the second moment of (n, count, d) vectors, and its inverse."""
    moment = vectors.transpose(1, 2) @ vectors / vectors.shape[1]
    values, basis = torch.linalg.eigh(moment)
    roots = values.clamp_min(values[:, -1:] * 1e-6).sqrt()
    return (basis * roots[:, None]) @ basis.transpose(1, 2), (basis / roots[:, None]) @ basis.transpose(1, 2)


def train(
    to_query: torch.Tensor, to_key: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of Adam towards the attention of these queries to these keys."""
    group = queries.shape[0] // keys.shape[0]
    with torch.inference_mode(False), torch.enable_grad():
        queries, keys = queries.clone(), keys.clone()
        target = (queries @ keys.repeat_interleave(group, 0).transpose(1, 2) * queries.shape[-1] ** -0.5).softmax(-1)
        learnt = [to_query.clone().requires_grad_(), to_key.clone().requires_grad_()]
        rates = [{"params": [part], "lr": 0.05 * float(part.detach().std())} for part in learnt]
        optimizer = torch.optim.Adam(rates)
        for _ in range(steps):
            low = (keys @ learnt[1]).repeat_interleave(group, 0)
            logits = (queries @ learnt[0]) @ low.transpose(1, 2)
            loss = -(target * logits.log_softmax(-1)).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return learnt[0].detach(), learnt[1].detach()


@method(stage="attention")
class RTPurbo(Selecting):
    """Retrieval heads by a low-rank indexer and top-p, local heads by window."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "window": 4}

    dims: int | None = Field(default=None, ge=1)
    """Dimensions of the indexer; a quarter of head_dim if left out."""
    retrieval: float = Field(default=0.5, gt=0, le=1)
    """Share of all KV heads that are retrieval heads."""
    window: int = Field(default=128, ge=1)
    """Distance from which on attention counts as long-range."""
    steps: int = Field(default=20, ge=0)
    """Training steps of the indexer."""
    mass: float = Field(default=0.9, gt=0, le=1)
    """Share of the indexer's attention that the tokens chosen hold."""

    def own_scorer(self) -> Scorer:
        return LowRankIndexer(self.dims, self.retrieval, self.window, self.steps)

    def own_picker(self) -> Picker:
        return Nucleus(self.mass)
