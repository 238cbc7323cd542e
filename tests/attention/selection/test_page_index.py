"""The index of pages: grown with the text as if made at once, counted, copied."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attention.selection.test_scores import filled
from tokloom.attention.selection.page_index import PageIndex, mean, score_pages
from tokloom.attention.selection.scores import Span


@given(size=st.integers(1, 7), ends=st.lists(st.integers(0, 200), min_size=1, max_size=6).map(sorted))
def test_growing_equals_making_it_at_once(size: int, ends: list[int]) -> None:
    layer = filled(200, 2, 4)
    for end in ends:
        index = PageIndex.of(layer, "means", size, mean, end)
    pages = ends[-1] // size
    assert index is layer.notes["means"]
    assert index.count == pages
    expected = layer.keys[:, :, : pages * size].reshape(1, 2, pages, size, 4).mean(3)
    torch.testing.assert_close(index.entries.rows(), expected)
    assert index.bytes >= expected.numel() * 4


def test_a_shorter_span_leaves_the_index_as_it_is() -> None:
    layer = filled(40, 2, 4)
    PageIndex.of(layer, "means", 4, mean, 40)
    assert PageIndex.of(layer, "means", 4, mean, 12).count == 10


def test_a_fork_goes_its_own_way() -> None:
    layer = filled(40, 2, 4)
    index = PageIndex.of(layer, "means", 4, mean, 20)
    other = index.fork()
    PageIndex.of(layer, "means", 4, mean, 40)
    assert (index.count, other.count) == (10, 5)
    other.entries.rows().zero_()
    assert index.entries.rows().abs().min() > 0


@given(begin=st.integers(0, 9), ends=st.lists(st.integers(0, 40), min_size=1, max_size=3), first=st.booleans())
def test_pages_of_each_row(begin: int, ends: list[int], first: bool) -> None:
    """Finite where a page is full before the row's end and overlaps the span; taken where it is cut by that end."""
    layer = filled(40, 2, 4)
    span = Span(begin, torch.tensor(ends, dtype=torch.int32), max(ends))
    index = PageIndex.of(layer, "means", 4, mean, span.last)
    queries = torch.randn(1, 4, len(ends), 4, generator=torch.Generator().manual_seed(0))
    scores = score_pages(layer, queries, span, index, first=first)
    for row, end in enumerate(ends):
        values = scores.values[0, :, row]
        expected = [
            "always" if (i == end // 4 and end % 4) or (first and i == begin // 4)
            else "rated" if begin // 4 <= i < end // 4 else "never"
            for i in range(values.shape[-1])
        ]  # fmt: skip
        kinds = {torch.inf: "always", -torch.inf: "never"}
        assert [[kinds.get(v, "rated") for v in head] for head in values.tolist()] == [expected] * 2
