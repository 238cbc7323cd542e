"""What a policy knows of each page of consecutive slots, made once a page is full and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tokloom._core import Index
from tokloom.attention.kv_layer import KVLayer
from tokloom.attention.scores import STORAGES, Reduce, Scores, Span, scores_of_pages


class PageIndex:
    """Entries of full pages of `size` slots: (batch, kv_heads, pages, width), grown by half when it is full.

    Only slots of the past are in it, which are part of the text for good.
    """

    def __init__(self, size: int, describe: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`describe` makes entries (batch, kv_heads, pages, width) of keys (batch, kv_heads, pages, size, head_dim)."""
        self.size, self._describe = size, describe
        self.count = 0
        self._held: torch.Tensor | None = None

    @classmethod
    def of(
        cls, layer: KVLayer, name: str, size: int, describe: Callable[[torch.Tensor], torch.Tensor], span: int
    ) -> PageIndex:
        """The layer's index of that name, with all full pages among the first `span` slots at least."""
        index = layer.notes.get(name)
        if index is None:
            index = layer.notes[name] = cls(size, describe)
        index._extend(layer, span)
        return index

    @property
    def entries(self) -> torch.Tensor:
        """(batch, kv_heads, pages, width), a view."""
        assert self._held is not None  # `of` makes it
        return self._held[:, :, : self.count]

    def lowered(self, scale: float, **how: Any) -> Index:
        """The index as the core takes it; how: as of `tokloom._core.Index`. Valid until the next entry is made."""
        held = self._held
        assert held is not None  # `of` makes it
        return Index(
            scale=scale, keys=held.data_ptr(), storage=STORAGES[held.dtype], head_stride=held.shape[2],
            width=held.shape[3], page=self.size, **how,
        )  # fmt: skip

    @property
    def bytes(self) -> int:
        return 0 if self._held is None else self._held.numel() * self._held.element_size()

    def rewind(self, slots: int) -> None:
        """Forgets pages with slots from `slots` on."""
        self.count = min(self.count, slots // self.size)

    def fork(self) -> PageIndex:
        """An independent copy."""
        other = PageIndex(self.size, self._describe)
        other.count, other._held = self.count, None if self._held is None else self._held.clone()
        return other

    def _extend(self, layer: KVLayer, span: int) -> None:
        if span // self.size <= self.count and self._held is not None:
            return
        # All of the past at once, so that while decoding the work is not done anew for every token.
        pages = max(span, layer.past) // self.size
        keys = layer.key_range(self.count * self.size, pages * self.size)
        new = self._describe(keys.reshape(*keys.shape[:2], pages - self.count, self.size, keys.shape[-1]))
        if self._held is None or self._held.shape[2] < pages:
            room = max(pages, 64, self.count * 3 // 2)
            grown = new.new_empty(*new.shape[:2], room, new.shape[-1])
            if self._held is not None:
                grown[:, :, : self.count] = self._held[:, :, : self.count]
            self._held = grown
        self._held[:, :, self.count : pages] = new
        self.count = pages


def mean(keys: torch.Tensor) -> torch.Tensor:
    """An entry of `PageIndex`: the mean of a page's keys, float32."""
    return keys.float().mean(3)


def score_pages(
    layer: KVLayer,
    queries: torch.Tensor,
    span: Span,
    index: PageIndex,
    reduce: Reduce = "mass",
    scale: float | None = None,
    first: bool = False,
) -> Scores:
    """Scores of the pages that overlap the span, by their entries.

    The page at a row's end, which may not be full yet, is always taken; the first one too if `first`.
    """
    size = index.size
    key = ("pages", size, id(span))
    shared = layer.step.shared
    if key not in shared:  # the same for all layers
        full = span.ends // size
        shared[key] = Span(span.begin // size, full, int(full.max())), span
    return scores_of_pages(layer, queries, span, shared[key][0], index.entries, size, reduce, scale, first)
