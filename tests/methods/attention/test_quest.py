"""Quest against its formula page by page: the bound, the choice, the index that grows with the text."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attention.selecting import check, grouped
from tests.attention.selection.test_scores import filled
from tests.methods.attention.test_select import LEFT, POLICY, exact
from tokloom.attention.selection.scores import Span
from tokloom.errors import SpecError
from tokloom.methods.attention import quest
from tokloom.methods.attention.quest import PageBounds, Quest
from tokloom.models.language_model import LanguageModel


def above(x: float) -> float:
    """The least number of 8 bits of mantissa, as bf16 has, that is not below x."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)


def by_pages(page: int):  # type: ignore[no-untyped-def]
    """Per KV head: the page that the candidates end in, and those of the largest sum of the softmaxes of bounds."""

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        end = candidates[-1] + 1
        sets = []
        for q, k in grouped(queries, keys):
            full = range(candidates[0] // page, end // page)
            scores = dict.fromkeys(full, 0.0)
            for head in q:
                bounds = []
                for i in full:
                    rows = k[i * page : (i + 1) * page]
                    bounds.append(sum(max(x * -above(-float(lo)), x * above(float(hi))) for x, lo, hi in
                                      zip(head.tolist(), rows.amin(0), rows.amax(0), strict=True)) * 0.25)  # fmt: skip
                for i, weight in zip(full, torch.tensor(bounds).softmax(0), strict=True):
                    scores[i] += float(weight)
            tail = [end // page] if end % page else []
            pages = tail + sorted(scores, key=lambda i: -scores[i])[: LEFT // page - len(tail)]
            sets.append({j for i in pages for j in range(i * page, (i + 1) * page)} & set(candidates))
        return sets

    return chosen


@pytest.mark.parametrize("page", [3, 4])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, page: int) -> None:
    check(tiny_llama, Quest(**POLICY, page=page), by_pages(page))


def test_pages_of_one_token_are_exact(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the rounding of bounds to bf16, here to nearest."""
    monkeypatch.setattr(quest, "bounds", lambda keys: torch.cat([keys.amax(3), keys.amin(3)], dim=-1))

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        return exact(layer, queries, keys.bfloat16().float(), candidates)

    check(tiny_llama, Quest(**POLICY, page=1), chosen)


@given(seed=st.integers(0, 1000), page=st.integers(1, 9))
def test_no_key_scores_above_its_pages_bound(seed: int, page: int) -> None:
    layer = filled(30, 1, 8, seed=seed)
    query = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(seed + 1))
    from tokloom.attention.selection.page_index import PageIndex, score_pages
    from tokloom.methods.attention.quest import bounds

    span = Span(0, torch.tensor([30], dtype=torch.int32), 30)
    index = PageIndex.of(layer, "bounds", page, bounds, 30)
    signed = torch.cat([query.clamp_min(0), query.clamp_max(0)], dim=-1)
    of_pages = score_pages(layer, signed, span, index, reduce="max", scale=1.0).values[0, 0, 0]
    of_slots = (layer.keys[0, 0] @ query[0, 0, 0]).tolist()
    assert all(score <= float(of_pages[j // page]) + 1e-5 for j, score in enumerate(of_slots))


def test_only_full_pages_are_in_the_index() -> None:
    layer = filled(30, 2, 8)
    PageBounds(4).score(layer, torch.zeros(1, 2, 1, 8), Span(2, torch.tensor([23], dtype=torch.int32), 23), 8)
    (index,) = layer.notes.values()
    assert index.count == 5
    assert index.bytes >= 2 * 5 * 16 * 2


def test_a_page_beyond_the_budget_is_refused() -> None:
    with pytest.raises(SpecError, match="quest:page=40"):
        Quest(budget=64, sink=4, local=32, page=40)
