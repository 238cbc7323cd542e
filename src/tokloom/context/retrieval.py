"""Hybrid retrieval over passages: BM25 (bm25s) and sentence embeddings (faiss), fused by reciprocal rank.

Embedding a book costs 10 to 30 ms a passage on a CPU, most of a minute for a long one, BM25 next to
nothing. So BM25 (with a prior on sections, if there is one) names the candidates, and only these are
embedded; vectors are kept on disk and used again. The dense index is exact: building an approximate
one takes longer than all the searches that one request makes, and isn't deterministic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tokloom.context.embedding_cache import embed_cached
from tokloom.context.selector import ContextRequest
from tokloom.context.spans import Passage
from tokloom.context.words import plain, terms

Floats = npt.NDArray[np.float32]

RRF_K = 60
"""The constant of reciprocal rank fusion: how little the first ranks stand out."""


@dataclass(frozen=True)
class Index:
    """Passages with their content words, and the weight of each word.

    idf: ``log(1 + (n - df + 0.5) / (df + 0.5))`` over the passages, as in BM25.
    """

    passages: tuple[Passage, ...]
    texts: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    idf: dict[str, float]

    def weight(self, word: str) -> float:
        """The idf of a word; of one that is in no passage, the highest there could be."""
        return self.idf.get(word, math.log(1 + (len(self.passages) + 0.5) / 0.5))


@dataclass(frozen=True)
class Hits:
    """Scores of every passage for one question. All arrays are float32 (passages,).

    lexical: BM25 score, 0 without a common word.
    dense: cosine of the embeddings, nan where the passage was not embedded.
    fused: sum over both rankings of 1 / (60 + rank), 0 where a passage is in neither.
    ranking: indices of the passages by falling fused score, equal ones by position; int64 (passages,).
    vectors: the embeddings by index of passage.
    """

    lexical: Floats
    dense: Floats
    fused: Floats
    ranking: npt.NDArray[np.int64]
    vectors: dict[int, Floats] = field(repr=False)

    def similarity(self, one: int, other: int) -> float:
        """Cosine of two passages, 0 if either was not embedded."""
        if one not in self.vectors or other not in self.vectors:
            return 0.0
        return float(self.vectors[one] @ self.vectors[other])


def index(request: ContextRequest, passages: Sequence[Passage]) -> Index:
    """Reads the content words of the passages."""
    texts = tuple(request.documents[p.document].text[p.start : p.end] for p in passages)
    words = tuple(tuple(terms(text)) for text in texts)
    df = Counter(word for found in words for word in set(found))
    idf = {word: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for word, n in df.items()}
    return Index(tuple(passages), texts, words, idf)


def search(request: ContextRequest, index: Index, dense_candidates: int, prior: Floats | None = None) -> Hits:
    """Scores the passages for `request.question`.

    Args:
        dense_candidates: how many passages are embedded; 0 is all of them.
        prior: float32 (passages,), what is known of a passage from its place; with the BM25 score (as a share of
            the best one) it decides which passages are embedded. The scores themselves do not hold it.
    """
    n = len(index.passages)
    lexical = bm25(index.words, terms(request.question))
    if dense_candidates == 0 or dense_candidates >= n:
        chosen = np.arange(n)
    else:
        best = float(lexical.max(initial=0.0))
        first = lexical / best if best > 0 else lexical
        chosen = _prefilter(index.passages, first if prior is None else first + prior, dense_candidates)
    dense = np.full(n, np.nan, dtype=np.float32)
    vectors: dict[int, Floats] = {}
    if len(chosen):
        owners = [request.documents[index.passages[i].document].text for i in chosen]
        question, rows = embed_cached(
            request.embed, plain(request.question), [plain(index.texts[i]) for i in chosen], owners
        )  # fmt: skip
        dense[chosen] = _cosines(question, rows)
        vectors = {int(i): row for i, row in zip(chosen, rows, strict=True)}
    fused = reciprocal_rank_fusion([np.where(lexical > 0, lexical, np.nan), dense])
    return Hits(lexical, dense, fused, _descending(fused), vectors)


def bm25(words: Sequence[Sequence[str]], query: Sequence[str]) -> Floats:
    """BM25 scores (Lucene's variant, k1 1.5, b 0.75), float32 (passages,); all 0 if no word is shared."""
    import bm25s

    known = {word for found in words for word in found}
    asked = [word for word in query if word in known]
    if not asked:
        return np.zeros(len(words), dtype=np.float32)
    model = bm25s.BM25(method="lucene")
    model.index([list(found) for found in words], show_progress=False)
    return np.asarray(model.get_scores(asked), dtype=np.float32)


def reciprocal_rank_fusion(rankings: Sequence[Floats], k: int = RRF_K) -> Floats:
    """``sum over rankings of 1 / (k + rank)``, rank from 1, float32 (passages,).

    Each ranking is given by its scores; nan stands for a passage that it does not rank. Equal scores rank by position.
    """
    fused = np.zeros(len(rankings[0]), dtype=np.float64)
    for scores in rankings:
        order = _descending(scores)
        order = order[~np.isnan(scores[order])]
        fused[order] += 1.0 / (k + 1 + np.arange(len(order)))
    return fused.astype(np.float32)


def _prefilter(passages: Sequence[Passage], scores: Floats, wanted: int) -> npt.NDArray[np.int64]:
    """The `wanted` best passages with a score above 0; if these are fewer, the openings of sections as well."""
    order = _descending(scores)
    chosen = [int(i) for i in order[:wanted] if scores[i] > 0]
    if len(chosen) < wanted:
        # A question without a word of the text ("What is this about?"): what opens a section says most of it.
        openings = [
            i for i, p in enumerate(passages)
            if i == 0 or (p.document, p.section) != (passages[i - 1].document, passages[i - 1].section)
        ]  # fmt: skip
        left = [i for i in openings if scores[i] >= 0 and i not in set(chosen)] or list(range(len(passages)))
        room = min(wanted - len(chosen), len(left))
        spread = [left[k * len(left) // room] for k in range(room)]
        chosen = list(dict.fromkeys(chosen + spread))[:wanted]
    return np.asarray(sorted(chosen), dtype=np.int64)


def _cosines(question: Floats, rows: Floats) -> Floats:
    """Inner products of the question with each row, by an exact faiss index."""
    import faiss

    exact = faiss.IndexFlatIP(rows.shape[1])
    exact.add(np.ascontiguousarray(rows))
    scores, order = exact.search(np.ascontiguousarray(question[None]), len(rows))
    cosines = np.empty(len(rows), dtype=np.float32)
    cosines[order[0]] = scores[0]
    # The last bits depend on what else was in a batch; ranks must not.
    return np.round(cosines, 5)


def _descending(scores: Floats) -> npt.NDArray[np.int64]:
    """Indices by falling score; equal scores by position, nan last."""
    return np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable").astype(np.int64)
