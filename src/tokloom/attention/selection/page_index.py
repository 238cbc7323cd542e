"""What a policy knows of each page of consecutive slots, made once a page is full and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch

from tokloom._core import Index
from tokloom.attention.selection.scores import Entries, Reduce, Scores, Span, scores_of_pages
from tokloom.kv.layer import KVLayer
from tokloom.kv.precision import PRECISIONS


class PageIndex:
    """Entries of full pages of `size` slots, grown by half when it is full.

    Only slots of the past are in it, which are part of the text for good.
    """

    def __init__(self, size: int, describe: Callable[[torch.Tensor], torch.Tensor], precision: str = "fp32") -> None:
        """`describe` makes entries (batch, kv_heads, pages, width) of keys (batch, kv_heads, pages, size, head_dim);
        `precision`, one of `PRECISIONS`, is what they are kept in."""
        self.size, self.precision, self._describe = size, precision, describe
        self.count, self._width = 0, 0
        self._held: list[torch.Tensor] = []

    @classmethod
    def of(
        cls,
        layer: KVLayer,
        name: str,
        size: int,
        describe: Callable[[torch.Tensor], torch.Tensor],
        span: int,
        precision: str = "fp32",
    ) -> Self:
        """The layer's index of that name, with all full pages among the first `span` slots at least."""
        index: Self | None = layer.notes.get(name)
        if index is None:
            index = layer.notes[name] = cls(size, describe, precision)
        index._extend(layer, span)
        return index

    @classmethod
    def of_means(cls, layer: KVLayer, size: int, span: int, precision: str = "fp32") -> Self:
        """The layer's index of the mean keys of blocks of `size` slots; see `of`."""
        return cls.of(layer, f"means of {size}, {precision}", size, mean, span, precision)

    @property
    def entries(self) -> Entries:
        """`count` of them; a view."""
        return Entries(PRECISIONS[self.precision], [part[:, :, : self.count] for part in self._held], self._width)

    def lowered(self, scale: float, **how: Any) -> Index:
        """The index as the core takes it; how: as of `tokloom._core.Index`. Valid until the next entry is made."""
        held = Entries(PRECISIONS[self.precision], self._held, self._width)  # views would cost more than the call
        return Index(scale=scale, width=self._width, page=self.size, **held.core_arguments, **how)

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in self._held)

    def rewind(self, slots: int) -> None:
        """Forgets pages with slots from `slots` on."""
        self.count = min(self.count, slots // self.size)

    def fork(self) -> Self:
        """An independent copy."""
        other = type(self)(self.size, self._describe, self.precision)
        other.count, other._width, other._held = self.count, self._width, [part.clone() for part in self._held]
        return other

    def _extend(self, layer: KVLayer, span: int) -> None:
        if span // self.size <= self.count and self._held:
            return
        # All of the past at once, so that while decoding the work is not done anew for every token.
        pages = max(span, layer.past) // self.size
        keys = layer.key_range(self.count * self.size, pages * self.size)
        new = self._describe(keys.reshape(*keys.shape[:2], pages - self.count, self.size, keys.shape[-1]))
        self._width = new.shape[-1]
        parts = PRECISIONS[self.precision].encode(new)
        if not self._held or self._held[0].shape[2] < pages:
            max_draft_tokens = max(pages, 64, self.count * 3 // 2)
            grown = [part.new_empty(*part.shape[:2], max_draft_tokens, *part.shape[3:]) for part in parts]
            for to, held in zip(grown, self._held, strict=bool(self._held)):
                to[:, :, : self.count] = held[:, :, : self.count]
            self._held = grown
        for held, part in zip(self._held, parts, strict=True):
            held[:, :, self.count : pages] = part
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
