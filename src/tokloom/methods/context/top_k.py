"""Takes the passages that rank highest for the question, one after another, until the budget is full.

Paper: none (baseline)
Formula: take passages by falling ``sum over BM25 and cosine of 1 / (60 + rank)`` while
    ``tokens(rendering) <= budget``; stop at the first that does not fit (of the very first, its beginning).
Shapes: scores are float32 (passages,), embeddings float32 (passages, dims).
Effect: the usual way of retrieval-augmented generation, against which other selectors are measured. Nothing keeps it
    from taking the same content twice or from filling the prompt from one section.
"""

from __future__ import annotations

from typing import ClassVar

import pydantic

from tokloom.context import retrieval
from tokloom.context.packing import Packer, Piece, everything
from tokloom.context.selector import ContextRequest, ContextSelector, Decision, Selection, Span
from tokloom.context.spans import passage_characters, passages
from tokloom.registry import method


@method(stage="context")
class TopK(ContextSelector):
    """Plain hybrid retrieval; see the module's docstring."""

    needs: ClassVar[tuple[str, ...]] = ("tokenizer", "embeddings")

    budget: int = pydantic.Field(default=1024, ge=1)
    """tokens of the whole prompt"""
    passage_tokens: int = pydantic.Field(default=96, ge=8)
    """most tokens of a passage, by the documents' mean characters per token; half the budget if that is less"""
    dense_candidates: int = pydantic.Field(default=32, ge=0)
    """passages that are embedded, chosen by BM25; 0 is all"""

    def select(self, request: ContextRequest) -> Selection:
        """Chooses spans, in the order of their rank."""
        whole = everything(request)
        if whole is not None:
            return whole
        found = passages(tuple(request.documents), passage_characters(request, self.passage_tokens))
        index = retrieval.index(request, found)
        hits = retrieval.search(request, index, self.dense_candidates)
        packer = Packer(request, in_order=False)
        trace: dict[Piece, Decision] = {}
        for rank, i in enumerate(hits.ranking, 1):
            if hits.fused[i] <= 0:
                break
            passage = found[i]
            piece = Piece(passage.document, passage.start, passage.end)
            fits = packer.add(piece)
            scores = {"fused": float(hits.fused[i]), "bm25": float(hits.lexical[i])}
            if i in hits.vectors:
                scores["cosine"] = float(hits.dense[i])
            cut = None if fits else packer.add_beginning(piece)
            if cut is not None:
                span = Span(request.documents[cut.document], cut.start, cut.end)
                trace[cut] = Decision(span, True, f"rank {rank}, cut to what fits", scores)
                break
            reason = f"rank {rank}" if fits else f"token budget: rank {rank} does not fit, retrieval stops here"
            trace[piece] = Decision(passage.span(request.documents), fits, reason, scores)
            if not fits:
                break
        for piece in packer.close():
            trace[piece] = Decision(trace[piece].span, False, "token budget: over it when counted whole")
        return Selection(packer.spans(), tuple(trace.values()))
