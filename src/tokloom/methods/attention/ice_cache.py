"""IceCache puts similar keys onto one page, so that the pages a query needs hold few keys that it does not.

Paper: P120. IceCache: Memory-efficient KV-cache Management for Long-Sequence LLMs. arXiv:2604.10539
Formula: per KV head, keys are clustered into pages of `page` with centroid c_P = mean_{j in P} k_j; a query scores
    pages by max over its KV head's query heads of q c_P / sqrt(d) and attends to the best pages beside sinks and local
    window.
Shapes: q (batch, heads, rows, d), centroids (batch, kv_heads, pages, d), token scores (batch, kv_heads, rows, slots).
Effect: the paper keeps 99% of the quality at 256 tokens. On SmolLM2-135M, 6 of 64 pages hold 47% of the attention
    between sinks and local window; as many pages of consecutive tokens 29% by Quest's bound and 28% by their mean. Over
    a mapped file (2,500 tokens of a book, budget 256, fp32) a token reads 3,423 pages of 4 KB; the same tokens in the
    order of the text would be 7,131, exact top-k 12,068, dense 28,341, Quest's pages 2,755. No time is claimed for
    that. In RAM, with 768 of 7,680 slots and int8 weights, a token took 19 ms and 33 densely (two threads). All that
    with pages of 16. At few slots they lose needles: at 96 of 960 slots (one number of four / three numbers, 8 examples
    each) SmolLM2-135M keeps 0.79 / 0.63 of the digits that dense attention ranks first, with pages of 8 1.04 / 0.87, of
    4 1.04 / 0.98. On 8 others: SmolLM2-135M 0.90 / 0.99 (3 of 30 and 1 of 84 digits fewer), Gemma-3-270M 0.96 / 1.00.
Differs: the paper clusters by a tree that keys are inserted into one by one. Here every `batch` consecutive tokens are
    clustered on their own once they are all there (balanced k-means); until then they are in pages of consecutive ones.
    The paper offloads pages from GPU to CPU; here, with `offload`, keys and values lie in a mapped file, those of a
    page next to each other, and only centroids stay in RAM. With `scorer` or as the scorer of another method slots stay
    in the order of the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom._core import Index
from tokloom.attention.selection.parts import Scorer
from tokloom.attention.selection.scores import Entries, Scores, Span, score_slots
from tokloom.attention.selection.selecting import Selecting
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import LayerPlan
    from tokloom.kv.layer import KVLayer

ROUNDS = 4


def balanced_clusters(keys: torch.Tensor, page: int) -> torch.Tensor:
    """Clusters of exactly `page` similar keys: int64 (heads, n), the cluster of each, 0 to n / page - 1.

    k-means that starts from evenly spaced keys; in a round clusters are filled in the order of how near keys are to
    their nearest centre, and a key whose nearest cluster is full goes to the next nearest. keys: (heads, n, d)."""
    heads, n, _ = keys.shape
    count = n // page
    centres = keys[:, ::page][:, :count].clone()
    labels = torch.empty(heads, n, dtype=torch.long)
    for _ in range(ROUNDS):
        distances = torch.cdist(keys, centres).cpu()  # (heads, n, count)
        for head in range(heads):
            labels[head] = _filled(distances[head], page)
        sums = torch.zeros_like(centres).scatter_add_(1, labels.to(keys.device)[..., None].expand_as(keys), keys)
        centres = sums / page
    return labels


def _filled(distances: torch.Tensor, page: int) -> torch.Tensor:
    """The cluster of each key, `page` keys a cluster. distances: (n, count)."""
    n, count = distances.shape
    labels = torch.full((n,), -1)
    left = distances.clone()
    free = torch.full((count,), page)
    waiting = torch.arange(n)
    while len(waiting):
        near, nearest = left[waiting].min(-1)
        order = torch.argsort(near, stable=True)
        order = order[torch.argsort(nearest[order], stable=True)]  # by cluster, nearest first
        wished = nearest[order]
        first = torch.searchsorted(wished, wished)  # where each one's cluster begins
        rank = torch.arange(len(order)) - first
        taken = rank < free[wished]
        labels[waiting[order[taken]]] = wished[taken]
        free -= torch.bincount(wished[taken], minlength=count)
        left[:, free == 0] = torch.inf
        waiting = waiting[order[~taken]].sort().values
    return labels


class SimilarPages:
    """Pages of a layer's text: of similar keys in whole batches, of consecutive ones after them.

    Attributes:
        clustered: centroids (batch * kv_heads, pages, d) of the whole batches; page: int64 (batch * kv_heads, tokens).
        consecutive: centroids of pages of consecutive tokens, from the first token on.
        laid: batches whose slots lie page by page; slot: int64 (batch * kv_heads, tokens), where their tokens are.
    """

    def __init__(self, batch: int, size: int) -> None:
        self.batch, self.size = batch, size
        self.batches = self.pages = self.laid = 0
        self.clustered: torch.Tensor | None = None
        self.page = torch.empty(0, 0, dtype=torch.long)
        self.consecutive: torch.Tensor | None = None
        self.slot = self.page

    def extend(self, layer: KVLayer, upto: int) -> None:
        """Takes the full pages and batches among the tokens below `upto` in."""
        while (self.batches + 1) * self.batch <= upto:
            keys = layer.key_range(self.batches * self.batch, (self.batches + 1) * self.batch).float().flatten(0, 1)
            labels = balanced_clusters(keys, self.size).to(keys.device)
            sums = keys.new_zeros(len(keys), self.batch // self.size, keys.shape[-1])
            centres = sums.scatter_add_(1, labels[..., None].expand_as(keys), keys) / self.size
            labels += self.batches * self.batch // self.size
            first = self.clustered is None
            self.clustered = centres if self.clustered is None else torch.cat([self.clustered, centres], dim=1)
            self.page = labels if first else torch.cat([self.page, labels], dim=1)
            self.batches += 1
        pages = upto // self.size
        if pages > self.pages:
            keys = layer.key_range(self.pages * self.size, pages * self.size).float()
            new = keys.reshape(*keys.shape[:2], -1, self.size, keys.shape[-1]).mean(3)
            held = self.consecutive
            self.consecutive = new if held is None else torch.cat([held, new], dim=2)
            self.pages = pages

    def lay_out(self, layer: KVLayer) -> None:
        """Reorders the layer's slots so that the tokens of a page follow each other, in whole batches."""
        while self.laid < self.batches:
            first = self.laid * self.batch
            order = self.page[:, first : first + self.batch].argsort(dim=-1, stable=True)
            layer.slots.reorder(first, order.view(-1, layer.kv_heads, self.batch))
            slot = order.argsort(dim=-1) + first
            self.slot = torch.cat([self.slot, slot], dim=1) if self.laid else slot
            self.laid += 1

    def slots_of(self, tokens: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """Where tokens are: int64 (batch, kv_heads or 1, rows, n), -1 for none, to the slots of each KV head."""
        if not self.laid:
            return tokens
        tokens = tokens.expand(-1, kv_heads, -1, -1)
        slot = self.slot.view(len(tokens), kv_heads, 1, -1).expand(*tokens.shape[:3], -1)
        moved = (tokens >= 0) & (tokens < slot.shape[-1])
        return torch.where(moved, slot.gather(-1, tokens.clamp(0, slot.shape[-1] - 1)), tokens)

    @property
    def bytes(self) -> int:
        held = (self.clustered, self.page, self.consecutive, self.slot)
        return sum(t.nbytes for t in held if t is not None)

    def fork(self) -> SimilarPages:
        other = SimilarPages(self.batch, self.size)
        other.__dict__.update(self.__dict__)  # tensors are never written to
        return other

    def rewind(self, slots: int) -> None:
        """Forgets pages and batches with slots from `slots` on."""
        self.batches, self.pages = min(self.batches, slots // self.batch), min(self.pages, slots // self.size)
        self.page = self.page[:, : self.batches * self.batch]
        self.laid = min(self.laid, self.batches)
        self.slot = self.slot[:, : self.laid * self.batch]
        if self.clustered is not None:
            self.clustered = self.clustered[:, : self.batches * self.batch // self.size] if self.batches else None
        if self.consecutive is not None:
            self.consecutive = self.consecutive[:, :, : self.pages] if self.pages else None


class PageScores(Scorer):
    """The score of each token's page. State in the layer: note "pages"."""

    by_slot = False

    def __init__(self, batch: int, size: int) -> None:
        """size: tokens of a page."""
        self.batch, self.size = batch, size

    def max_draft_tokens(self, seen: int, local: int) -> int:
        return min(local, self.batch - max(0, seen - local + 1) % self.batch)  # all rows see as many batches

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        pages = self._pages(layer)
        queries = queries.float()
        batch, _, rows, width = queries.shape
        values = torch.full((batch, layer.kv_heads, rows, span.last), -torch.inf, device=queries.device)
        whole = int(span.ends.min()) // self.batch * self.batch  # tokens in batches, for all rows alike
        if whole:
            assert pages.clustered is not None
            centres = pages.clustered[:, : whole // self.size].view(batch, layer.kv_heads, -1, width)
            every = Span(0, torch.full((rows,), whole // self.size, dtype=torch.int32), whole // self.size)
            scores = score_slots(layer, queries, every, keys=Entries.of(centres))
            index = pages.page[:, :whole].view(batch, layer.kv_heads, 1, whole)
            values[..., :whole] = scores.gather(-1, index.expand(-1, -1, rows, -1))
        ends = span.ends // self.size
        last, first = int(ends.max()), whole // self.size
        if last > first:
            assert pages.consecutive is not None
            scores = score_slots(layer, queries, Span(first, ends, last), keys=Entries.of(pages.consecutive))
            values[..., whole : last * self.size] = scores[..., first:].repeat_interleave(self.size, dim=-1)
        slots = torch.arange(span.last, device=queries.device)
        limits = span.ends.to(queries.device)[:, None]
        rest = (slots >= limits // self.size * self.size) & (slots >= whole)  # an unfinished page is attended
        values = torch.where(rest, values.amax(-1, keepdim=True).clamp_min(-1e30) + 1, values)
        return Scores(values.masked_fill((slots < span.begin) | (slots >= limits), -torch.inf))

    def lower(self, layer: KVLayer, plan: LayerPlan, span: Span, budget: int, narrowed: bool = False) -> Index | None:
        pages = self._pages(layer)
        clustered, consecutive, width = pages.clustered, pages.consecutive, layer.width
        page_of, first = (0, 0), (0, 0)
        if clustered is not None:
            page_of = pages.page.data_ptr(), pages.page.stride(0)
        if consecutive is not None:
            first = consecutive.data_ptr(), consecutive.stride(1) // width
        return Index(
            scale=width**-0.5, keys=0 if clustered is None else clustered.data_ptr(),
            head_stride=0 if clustered is None else clustered.stride(0) // width, width=width, reduce="max",
            token_pages=(self.size, self.batch), page_of=page_of, consecutive=first,
        )  # fmt: skip

    def _pages(self, layer: KVLayer) -> SimilarPages:
        pages: SimilarPages = layer.notes.setdefault("pages", SimilarPages(self.batch, self.size))
        pages.extend(layer, layer.past)
        return pages


@method(stage="attention")
class IceCache(Selecting):
    """Pages of similar keys, chosen by their centroids for each KV head."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "page": 8, "batch": 16}

    page: int = Field(default=4, ge=1)
    """Tokens of a page."""
    batch: int = Field(default=512, ge=1)
    """Tokens that are clustered together, a multiple of a page."""

    def __post_init__(self) -> None:
        if self.batch % self.page:
            raise SpecError("ice_cache:batch", self.batch, f"a multiple of page ({self.page})")
        super().__post_init__()
        if self.budget - self.sink - self.local < self.page:
            raise SpecError("ice_cache:budget", self.budget, f"at least sink + local + page ({self.page})")

    def own_scorer(self) -> Scorer:
        return PageScores(self.batch, self.page)

    def plan(self, layer: KVLayer) -> LayerPlan | None:
        return None if layer.slots.mapped is not None and self.scorer is None else super().plan(layer)

    def placed(self, layer: KVLayer, tokens: torch.Tensor) -> torch.Tensor:
        pages: SimilarPages | None = layer.notes.get("pages")
        if pages is None or self.scorer is not None:
            return tokens
        if layer.slots.mapped is not None and not layer.trying:  # what is tried may be taken back
            pages.lay_out(layer)
        return pages.slots_of(tokens, layer.kv_heads)
