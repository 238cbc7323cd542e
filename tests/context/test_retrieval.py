from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.context import fakes
from tokloom.context import retrieval
from tokloom.context.selector import Document, Section
from tokloom.context.spans import passages

words = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8), min_size=1, max_size=8)


def slow_bm25(
    documents: Sequence[Sequence[str]], query: Sequence[str], k1: float = 1.5, b: float = 0.75
) -> list[float]:
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in query:
            df = sum(word in other for other in documents)
            tf = Counter(document)[word]
            if tf:
                idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@given(words, st.lists(st.sampled_from("abcdefgxyz"), max_size=4, unique=True))
@settings(deadline=None, max_examples=40)
def test_bm25_equals_its_formula(documents: list[list[str]], query: list[str]) -> None:
    expected = slow_bm25(documents, query)
    np.testing.assert_allclose(retrieval.bm25(documents, query), expected, rtol=1e-4, atol=1e-6)


def test_reciprocal_rank_fusion_by_hand() -> None:
    one = np.array([3.0, 1.0, np.nan, 2.0], dtype=np.float32)
    other = np.array([np.nan, 5.0, np.nan, 5.0], dtype=np.float32)
    expected = [1 / 61, 1 / 63 + 1 / 61, 0, 1 / 62 + 1 / 62]
    np.testing.assert_allclose(retrieval.reciprocal_rank_fusion([one, other]), expected, rtol=1e-6)


def hits(question: str, document: Document, candidates: int, prior: np.ndarray | None = None) -> retrieval.Hits:
    request = fakes.request(question, [document], 100)
    index = retrieval.index(request, passages((document,), 60))
    return retrieval.search(request, index, candidates, prior)


TEXT = "\n\n".join(
    f"The {w} stood in the {w} garden by the old wall of the town." for w in "oak elm ash fir yew".split()
)


def test_the_dense_scores_are_the_cosines() -> None:
    found = hits("Where is the elm?", Document("a", TEXT), 0)
    rows = fakes.embed(list(TEXT.split("\n\n")))
    np.testing.assert_allclose(found.dense, rows @ fakes.embed(["Where is the elm?"])[0], atol=1e-5)
    assert found.ranking[0] == 1
    assert found.similarity(0, 2) == pytest.approx(float(rows[0] @ rows[2]), abs=1e-5)


def test_only_the_candidates_are_embedded() -> None:
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return fakes.embed(texts)

    document = Document("a", TEXT)
    request = fakes.request("the yew and the fir", [document], 100, embed=embed)
    index = retrieval.index(request, passages((document,), 60))
    found = retrieval.search(request, index, 2)
    assert sorted(found.vectors) == [3, 4]
    assert len(seen) == 3
    assert np.isnan(found.dense[:3]).all()
    assert found.similarity(0, 4) == 0.0


def test_a_prior_names_candidates_but_does_not_change_scores() -> None:
    prior = np.array([0, 0, 2, 0, 0], dtype=np.float32)
    with_prior, without = hits("yew", Document("a", TEXT), 1, prior), hits("yew", Document("a", TEXT), 1)
    assert list(with_prior.vectors) == [2]
    assert list(without.vectors) == [4]
    np.testing.assert_array_equal(with_prior.lexical, without.lexical)


def test_a_question_without_a_word_of_the_text_looks_at_the_openings_of_sections() -> None:
    sections = (Section("x", 1, 0, TEXT.index("The ash")), Section("y", 1, TEXT.index("The ash"), len(TEXT)))
    found = hits("What is this about?", Document("a", TEXT, sections), 2)
    assert sorted(found.vectors) == [0, 2]
    assert (found.lexical == 0).all()


@pytest.mark.parametrize("candidates", [0, 1, 2, 3, 4, 7])
def test_the_ranking_is_complete_and_the_same_each_time(candidates: int) -> None:
    first, second = (hits("old oak wall", Document("a", TEXT), candidates) for _ in range(2))
    assert sorted(first.ranking) == list(range(5))
    np.testing.assert_array_equal(first.ranking, second.ranking)
    np.testing.assert_array_equal(first.fused, second.fused)


def test_a_text_of_punctuation_only_is_searched_without_words() -> None:
    found = hits("What?", Document("a", "...\n\n---\n\n!!!"), 0)
    assert (found.lexical == 0).all()
    assert len(found.ranking) == 1
