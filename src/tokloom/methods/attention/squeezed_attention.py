"""Squeezed Attention clusters the keys of a fixed context once; queries then load only clusters that matter to them.

Paper: P102. Squeezed Attention: Accelerating Long Context Length LLM Inference. arXiv:2411.09688
Formula: offline, per KV head, k-means over normalised keys; centroid c_i is the mean of the N_i raw keys of cluster
    i. A query q gives cluster i the score exp(q c_i / sqrt(d)) / sum_j N_j exp(q c_j / sqrt(d)) and attends to the
    keys of clusters that reach a threshold T, the same for all layers and heads: the `sparsity` quantile over all
    keys of the scores that the context's last `observed` queries give on average. Coarse clusters of the centroids
    are compared first, in the same way with a threshold of their own; the sum then runs over what is left.
Shapes: q (batch, heads, rows, d), centroids (batch, kv_heads, clusters, d), chosen slots (batch, kv_heads, rows, n).
Effect: the paper attends to a third of the context without loss, to an eighth at 0.5 points. Because T is global, heads
    and layers get different shares. On SmolLM2-135M a needle among 900 tokens is read at a sparsity of 0.9 (17% of all
    pairs attended, the question's included), where as many recent tokens lose it. Coarse clusters that leave out half
    of the keys lose it too at any sparsity: 1% of such a context are nine clusters. They are off by default. So few
    clusters are of little use in a short context: of 960 tokens (one number of four / three numbers, 8 examples each)
    the paper's 5% keep 0.68 / 0.63 of the digits that dense attention ranks first at 42% of all pairs; one cluster for
    four keys keeps 1.04 / 1.00 at 42%, and 1.04 / 0.99 at 24% with a sparsity of 0.9. That on 8 others: SmolLM2-135M
    1.00 / 0.94, Gemma-3-270M 1.04 / 1.00. After 7,680 tokens, with int8 weights, a token took 24 ms and 33 densely (two
    threads) at 39% of all pairs.
Differs: k-means starts from evenly spaced keys and runs 10 rounds. A KV head's query heads load what any of them wants.
    The fixed context is what was in the store when `prepare` ran: the prompt, or a prefix shared by requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from tokloom._core import Index, LayerPlan
from tokloom.attention.policy import AttentionPolicy
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer

ROUNDS = 10
SLACK = 1e-5
"""Relative: a score that equals the threshold, as that of a single cluster always does, reaches it."""


@dataclass
class Thresholds:
    """The two thresholds of a context, known once all layers have been prepared."""

    coarse_samples: list[torch.Tensor] = field(default_factory=list)
    fine_samples: list[torch.Tensor] = field(default_factory=list)
    coarse: float = 0.0
    fine: float = 0.0

    def fit(self, coarse_sparsity: float, sparsity: float) -> None:
        """Makes thresholds of the samples, scores by key, and drops these."""
        if self.fine_samples:
            self.coarse = _quantile(self.coarse_samples, coarse_sparsity)
            self.fine = _quantile(self.fine_samples, sparsity)
            self.coarse_samples, self.fine_samples = [], []


def _quantile(samples: list[torch.Tensor], share: float) -> float:
    """The score that this share of all keys stays below."""
    ordered = torch.cat([sample.flatten() for sample in samples]).sort().values
    at = min(int(share * len(ordered)), len(ordered) - 1)
    return float(ordered[at]) * (1 - SLACK) if share > 0 else 0.0


def cluster(points: torch.Tensor, count: int) -> torch.Tensor:
    """k-means by cosine: which of `count` clusters each point is in, int64 (heads, n). points: (heads, n, d)."""
    points = F.normalize(points, dim=-1)
    n = points.shape[1]
    centres = points[:, torch.linspace(0, n - 1, count, device=points.device).long()]
    labels = (points @ centres.transpose(1, 2)).argmax(-1)
    for _ in range(ROUNDS - 1):
        means, sizes = _means(points, labels, count)
        centres = torch.where(sizes[..., None] > 0, F.normalize(means, dim=-1), centres)
        labels = (points @ centres.transpose(1, 2)).argmax(-1)
    return labels


def _means(points: torch.Tensor, labels: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (heads, count, d) and size (heads, count) of each cluster; zero for empty ones."""
    heads, _, width = points.shape
    sums = points.new_zeros(heads, count, width).scatter_add_(1, labels[..., None].expand_as(points), points)
    sizes = points.new_zeros(heads, count).scatter_add_(1, labels, torch.ones_like(labels, dtype=points.dtype))
    return sums / sizes.clamp_min(1)[..., None], sizes


def scores_of(queries: torch.Tensor, centroids: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """exp(q c_i / sqrt(d)) / sum_j N_j exp(q c_j / sqrt(d)): (kv_heads, group, rows, clusters).

    queries: (kv_heads, group, rows, d); sizes: as the result, or (kv_heads, 1, 1, clusters); 0 leaves a cluster out."""
    raw = queries @ centroids[:, None].transpose(-1, -2) * queries.shape[-1] ** -0.5
    total = (raw + sizes.log()).logsumexp(-1, keepdim=True)
    scores: torch.Tensor = (raw - total).exp()
    return scores.masked_fill(sizes == 0, 0)


class Clusters:
    """The clusters of one layer's context. Never changed; heads are those of all sequences of a batch together.

    Attributes:
        labels: int64 (heads, keys), the cluster of each clustered key; sizes (heads, clusters).
        parents: int64 (heads, clusters), the coarse cluster of each.
    """

    def __init__(self, keys: torch.Tensor, fine: int, coarse: int, thresholds: Thresholds) -> None:
        """keys: (heads, n, d)."""
        self.thresholds = thresholds
        self.labels = cluster(keys, fine)
        self.centroids, self.sizes = _means(keys, self.labels, fine)
        self.parents = cluster(self.centroids, coarse)
        by_key = self.parents.gather(1, self.labels)
        self.coarse, self.coarse_sizes = _means(keys, by_key, coarse)

    def sample(self, queries: torch.Tensor) -> None:
        """Adds what these queries, (heads, group, rows, d), give each key on average to the thresholds' samples."""
        fine = scores_of(queries, self.centroids, self.sizes[:, None, None]).mean(2)  # (heads, group, clusters)
        coarse = scores_of(queries, self.coarse, self.coarse_sizes[:, None, None]).mean(2)
        by_key = self.parents.gather(1, self.labels)
        for samples, scores, labels in (
            (self.thresholds.fine_samples, fine, self.labels),
            (self.thresholds.coarse_samples, coarse, by_key),
        ):
            samples.append(scores.gather(-1, labels[:, None].expand(*scores.shape[:2], -1)))

    def chosen(self, queries: torch.Tensor) -> torch.Tensor:
        """Which clustered keys each row attends to: bool (heads, rows, keys). queries: (heads, group, rows, d)."""
        left = self.sizes[:, None, None]
        if self.thresholds.coarse > 0:
            coarse = scores_of(queries, self.coarse, self.coarse_sizes[:, None, None]) >= self.thresholds.coarse
            parents = self.parents[:, None, None].expand(*coarse.shape[:3], -1)
            left = coarse.gather(-1, parents) * left
        kept = (scores_of(queries, self.centroids, left) >= self.thresholds.fine).any(1)  # (heads, rows, clusters)
        return kept.gather(-1, self.labels[:, None].expand(*kept.shape[:2], -1))

    @property
    def bytes(self) -> int:
        held = (self.labels, self.centroids, self.sizes, self.parents, self.coarse, self.coarse_sizes)
        return sum(tensor.nbytes for tensor in held)

    def fork(self) -> Clusters:
        return self

    def rewind(self, slots: int) -> None:
        """A context is never taken back in part: text after it can be."""


@method(stage="attention", renamed={"least_clusters": "min_clusters"})
class SqueezedAttention(AttentionPolicy):
    """State in the layer: notes "queries" (the last ones, until `prepare`) and "clusters" (after it)."""

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")
    example: ClassVar[dict[str, Any]] = {"observed": 8}

    sparsity: float = Field(default=0.7, ge=0, lt=1)
    """Share of the context's keys that observed queries leave out, over all layers and heads; 0 is dense."""
    coarse_sparsity: float = Field(default=0.0, ge=0, lt=1)
    """Share that they leave out by coarse clusters alone; 0 leaves out none."""
    clusters: float = Field(default=0.05, gt=0, le=1)
    """Clusters, as a share of the context's keys."""
    min_clusters: int = Field(default=256, ge=0)
    """Clusters of a context for which that share is fewer; at most one for four keys."""
    coarse_clusters: float = Field(default=0.01, gt=0, le=1)
    """Coarse clusters, likewise."""
    observed: int = Field(default=100, ge=1)
    """Last tokens of the context: thresholds are set by their queries, and their keys are always attended."""

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        if "clusters" not in layer.notes:
            held = layer.notes.get("queries")
            both = queries if held is None else torch.cat([held, queries], dim=2)
            layer.notes["queries"] = both[:, :, -self.observed :].clone()

    def prepare(self, layer: KVLayer) -> None:
        count = layer.count - self.observed
        queries: torch.Tensor | None = layer.notes.pop("queries", None)
        if "clusters" in layer.notes or queries is None or count < 1:
            return
        shared = layer.step.shared
        thresholds = shared.setdefault("thresholds", Thresholds())
        keys = layer.key_range(0, count).float().flatten(0, 1)
        fine, coarse = (max(1, round(share * count)) for share in (self.clusters, self.coarse_clusters))
        fine = max(fine, min(self.min_clusters, count // 4))
        clusters = Clusters(keys, fine, min(coarse, fine), thresholds)
        clusters.sample(_grouped(queries, layer.kv_heads))
        layer.notes["clusters"] = clusters

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        clusters: Clusters | None = layer.notes.get("clusters")
        if clusters is None or self.sparsity == 0:
            return None
        clusters.thresholds.fit(self.coarse_sparsity, self.sparsity)
        chosen = clusters.chosen(_grouped(queries, layer.kv_heads))  # (heads, rows, keys)
        listed = _listed(chosen)
        listed = listed.view(len(queries), -1, chosen.shape[1], listed.shape[-1])
        rest = torch.arange(chosen.shape[-1], layer.past, device=chosen.device)
        return torch.cat([listed, rest.expand(*listed.shape[:-1], -1)], dim=-1)

    def plan(self, layer: KVLayer) -> LayerPlan | None:
        clusters: Clusters | None = layer.notes.get("clusters")
        if clusters is None:  # queries are observed
            return None
        plan = LayerPlan()
        if self.sparsity == 0:
            return plan
        thresholds = clusters.thresholds
        thresholds.fit(self.coarse_sparsity, self.sparsity)
        if thresholds.coarse > 0:
            return None
        centroids, width = clusters.centroids, layer.width
        count = centroids.shape[1]
        index = Index(scale=width**-0.5, keys=centroids.data_ptr(), head_stride=count, width=width, reduce="each")
        labels = clusters.labels
        plan.choose_clusters(
            index, labels.data_ptr(), clusters.sizes.data_ptr(), labels.shape[1], count, thresholds.fine
        )
        return plan


def _listed(chosen: torch.Tensor) -> torch.Tensor:
    """Which are set in each row of (..., n): int64 (rows, the most of any row, 1 at least), ascending, then -1."""
    flat = chosen.flatten(0, -2)
    row, place = flat.nonzero(as_tuple=True)
    sizes = flat.sum(-1)
    listed = flat.new_full((len(flat), max(1, int(sizes.max()))), -1, dtype=torch.long)
    listed[row, torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]] = place
    return listed


def _grouped(queries: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(batch, heads, rows, d) as (batch * kv_heads, group, rows, d)."""
    batch, heads, rows, width = queries.shape
    return queries.reshape(batch * kv_heads, heads // kv_heads, rows, width).float()
