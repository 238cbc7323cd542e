"""Scores of slots by the core and by torch against their definition, and the largest against a sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokloom._core import kernels
from tokloom.attention.policy import AttentionPolicy
from tokloom.attention.selection import scores as module
from tokloom.attention.selection.page_index import PageIndex, mean, score_pages
from tokloom.attention.selection.parts import best_slots
from tokloom.attention.selection.scores import Entries, Span, largest, score_slots, scores_of_slots
from tokloom.kv.layer import PRECISIONS, KVLayer
from tokloom.kv.step import Step

CPU = torch.device("cpu")


def filled(count: int, kv_heads: int, width: int, precision: str | None = None, seed: int = 0) -> KVLayer:
    """A layer with random keys in `count` slots."""
    layer = KVLayer(0, AttentionPolicy(), 0, precision)
    layer.step = Step(tuple(range(count)), CPU, prompt=True)
    generator = torch.Generator().manual_seed(seed)
    layer.update(*(torch.randn(1, kv_heads, count, width, generator=generator) for _ in range(2)))
    return layer


def by_definition(q, k, span, scale, reduce, shared, among, use):  # type: ignore[no-untyped-def]
    """One head, one row and one slot at a time; nested lists as `score_slots` gives."""
    heads, rows, _ = q.shape
    kv_heads = k.shape[0]
    group = heads // kv_heads
    results = []
    for result in range(1 if shared else kv_heads):
        by_row = []
        for row in range(rows):
            if among is None:
                slots = list(range(span.last))
            else:
                slots = among[min(result, len(among) - 1)][min(row, len(among[0]) - 1)]
            end = int(span.ends[row])
            members = range(heads) if shared else range(result * group, (result + 1) * group)
            votes = []
            for h in members:
                if use is not None and not use[h][row]:
                    continue
                raw = [
                    scale * float(q[h, row].double() @ k[h // group, s].double())
                    if span.begin <= s < end else -math.inf for s in slots
                ]  # fmt: skip
                if reduce == "mass":
                    top = max(raw, default=0.0)
                    total = sum(math.exp(r - top) for r in raw) if top > -math.inf else 1.0
                    raw = [math.exp(r - top) / total if r > -math.inf else -math.inf for r in raw]
                votes.append(raw)
            combine = max if reduce == "max" else sum
            by_row.append([combine(column) for column in zip(*votes, strict=True)] or [-math.inf] * len(slots))
        results.append(by_row)
    return results


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_core_and_torch_equal_the_definition(data: st.DataObject) -> None:
    draw = data.draw
    kv_heads, group, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    heads, width, count = kv_heads * group, draw(st.sampled_from([4, 16, 24, 64, 80])), draw(st.integers(1, 40))
    precision = draw(st.sampled_from([None, *PRECISIONS]))
    reduce = draw(st.sampled_from(["max", "sum", "mass"]))
    shared = draw(st.booleans())
    layer = filled(count, kv_heads, width, precision, draw(st.integers(0, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
    queries = torch.randn(1, heads, rows, width, generator=generator)
    ends = torch.tensor(draw(st.lists(st.integers(0, count), min_size=rows, max_size=rows)), dtype=torch.int32)
    span = Span(draw(st.integers(0, 4)), ends, int(ends.max()))
    scale = draw(st.sampled_from([None, 0.7]))
    among = use = keys = None
    if draw(st.booleans()):
        shape = (1, 1 if shared else draw(st.sampled_from([1, kv_heads])), draw(st.sampled_from([1, rows])))
        among = torch.randint(-1, count, (*shape, draw(st.integers(0, 9))), generator=generator)
    if draw(st.booleans()):
        use = torch.rand(heads, rows, generator=generator) < 0.5
    if draw(st.booleans()):  # an index with room to grow, as `PageIndex` holds it
        of = PRECISIONS[draw(st.sampled_from(list(PRECISIONS)))]
        held = of.encode(torch.randn(1, kv_heads, count + 7, width, generator=generator))
        keys = Entries(of, [part[:, :, :count] for part in held], width)
    options = {"keys": keys, "scale": scale, "reduce": reduce, "shared": shared, "among": among, "use": use}
    assert layer.core is not None
    got = score_slots(layer, queries, span, **options)
    layer.slots.core = None
    slow = score_slots(layer, queries, span, **options)
    scored = (layer.keys if keys is None else keys.rows())[0]
    expected = torch.tensor(
        by_definition(
            queries[0], scored, span, width**-0.5 if scale is None else scale, reduce, shared,
            None if among is None else among[0].tolist(), None if use is None else use.tolist(),
        )
    ).view(got.shape)  # fmt: skip
    torch.testing.assert_close(slow, expected[None].view(slow.shape), atol=1e-4, rtol=1e-4)
    # Over int8 keys the core may round queries to 16 bits: half a level times the sum of a key's elements, twice that
    # in a softmax, for each head.
    level = float(queries.abs().max()) * (width**-0.5 if scale is None else scale) / 32639
    in_bytes = (precision if keys is None else of.core) == "int8"
    slack = heads * level * float(scored.abs().sum(-1).max()) if in_bytes else 0.0
    torch.testing.assert_close(got, expected[None].view(got.shape), atol=1e-4 + slack, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from([1, 4, 24, 63, 64, 100, 256]), rows=st.integers(1, 11), count=st.integers(1, 600),
    listed=st.booleans(), size=st.sampled_from([0.0, 1e-6, 1.0, 1e6]), seed=st.integers(0, 9),
)  # fmt: skip
def test_int8_scores_of_many_rows(width: int, rows: int, count: int, listed: bool, size: float, seed: int) -> None:
    """Near those in floats; in whole numbers not even the last bit of a row depends on the other rows."""
    layer = filled(count, 2, width, "int8", seed)
    generator = torch.Generator().manual_seed(seed)
    queries = size * torch.randn(1, 6, rows, width, generator=generator)
    span = Span(0, torch.full((rows,), count, dtype=torch.int32), count)
    among = torch.randint(count, (1, 2, 1, min(count, 300)), generator=generator) if listed else None
    together = score_slots(layer, queries, span, reduce="sum", among=among)
    alone = Span(0, span.ends[:1], count)
    for row in range(rows if kernels() in ("amx", "avx512") else 0):
        single = score_slots(layer, queries[:, :, row : row + 1].contiguous(), alone, reduce="sum", among=among)
        assert torch.equal(together[:, :, row : row + 1], single)
    exact = (queries.view(1, 2, 3, rows, width) @ layer.keys[:, :, None].transpose(-1, -2)).sum(2) * width**-0.5
    if among is not None:
        exact = exact.gather(-1, among.expand(-1, -1, rows, -1))
    largest_product = (queries.abs().amax() * layer.keys.abs().amax() * width**0.5).clamp_min(1e-30)
    assert float((together - exact).abs().max() / largest_product) < 1e-4


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_choosing_in_one_call_equals_scoring_first(data: st.DataObject) -> None:
    """The same slots, in the same order but for what is empty, for single slots, listed ones and pages."""
    draw = data.draw
    kv_heads, group, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    count, page = draw(st.integers(1, 60)), draw(st.sampled_from([1, 1, 2, 4, 7]))
    layer = filled(count, kv_heads, 16, draw(st.sampled_from([None, *PRECISIONS])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
    queries = torch.randn(1, kv_heads * group, rows, 16, generator=generator)
    ends = torch.tensor(draw(st.lists(st.integers(0, count), min_size=rows, max_size=rows)), dtype=torch.int32)
    span = Span(draw(st.integers(0, 9)), ends, int(ends.max()))
    if page == 1:
        shared, use = draw(st.booleans()), None
        among = None
        if draw(st.booleans()):
            shape = (1, 1 if shared else kv_heads, draw(st.sampled_from([1, rows])), draw(st.integers(0, 9)))
            among = torch.stack(
                [torch.randperm(count + 9, generator=generator)[: shape[-1]] for _ in range(shape[1] * shape[2])]
            )
            among = among.view(shape).masked_fill(among.view(shape) >= count, -1)
        if draw(st.booleans()):
            use = torch.rand(kv_heads * group, rows, generator=generator) < 0.5
        scores = scores_of_slots(layer, queries, span, shared=shared, among=among, use=use)
    else:
        index = PageIndex.of(layer, "means", page, mean, span.last)
        scores = score_pages(layer, queries, span, index, first=draw(st.booleans()))
    k = draw(st.integers(0, scores.items))
    counts = None
    if draw(st.booleans()):
        counts = torch.tensor(draw(st.lists(st.integers(0, k), min_size=rows, max_size=rows)), dtype=torch.int32)
    assert scores.select is not None
    fast = best_slots(scores, k, counts)
    scores.select = None
    slow = best_slots(scores, k, counts)
    for some, others in zip(fast.flatten(0, 2).tolist(), slow.flatten(0, 2).tolist(), strict=True):
        assert sorted(slot for slot in some if slot >= 0) == sorted(slot for slot in others if slot >= 0)


def test_choosing_among_many_equals_scoring_first() -> None:
    """So many that the core looks at a sample of the scores first; with many equal ones too."""
    for count, levels in ((9000, 0), (9000, 3), (2500, 0)):
        layer = filled(count, 2, 8)
        if levels:
            layer.slots.keys.copy_((layer.slots.keys * levels).round() / levels)
        queries = torch.randn(1, 4, 2, 8, generator=torch.Generator().manual_seed(3))
        span = Span(4, torch.tensor([count - 10, count], dtype=torch.int32), count)
        for k in (1, 300, 2000):
            scores = scores_of_slots(layer, queries, span, reduce="max")
            fast = best_slots(scores, k)
            expected = scores.values.sort(dim=-1, descending=True, stable=True).indices[..., :k].sort(-1).values
            assert torch.equal(fast, expected)


def test_many_slots_and_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """More slots than the kernel takes in one block, and enough work to be split."""
    layer = filled(1500, 2, 64)
    queries = torch.randn(1, 6, 2, 64, generator=torch.Generator().manual_seed(3))
    span = Span(4, torch.tensor([1490, 1500], dtype=torch.int32), 1500)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(module.torch, "get_num_threads", lambda n=threads: n)
        results.append(score_slots(layer, queries, span, reduce="mass"))
    assert torch.equal(*results)
    layer.slots.core = None
    torch.testing.assert_close(results[0], score_slots(layer, queries, span, reduce="mass"), atol=1e-6, rtol=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([-math.inf, -2.0, -0.5, 0.0, 0.25, 3.0, math.inf]), min_size=0, max_size=30),
    k=st.integers(0, 12),
)
def test_largest_equals_a_sort(values: list[float], k: int) -> None:
    ranked = sorted((i for i in range(len(values)) if values[i] > -math.inf), key=lambda i: (-values[i], i))
    expected = sorted(ranked[:k]) + [-1] * (k - min(k, len(ranked)))
    given_values = torch.tensor([values, values]).view(2, len(values))
    assert largest(given_values, k).tolist() == [expected, expected]
    assert largest(given_values.double(), k).tolist() == [expected, expected]  # by torch


def test_largest_of_many() -> None:
    values = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1))
    expected = values.topk(700, dim=-1).indices.sort(-1).values
    assert torch.equal(largest(values, 700), expected)
