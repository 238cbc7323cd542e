"""Token Recycling drafts from the candidates that the model rejected when it last met the same token.

Paper: P42. Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling.
    arXiv:2408.08696
Formula: M[t] = the `candidates` likeliest next tokens when t was last seen, drafted or accepted. Draft tree: the root
    is the last token; a node with token t has children M[t][0], M[t][1], ... ; breadth first by a template of ranks.
Shapes: M int32 (vocabulary, candidates); a tree of up to `nodes` nodes, one forward pass of nodes + 1 rows.
Effect: the paper doubles the speed of 7B models at under 2 MB. Here, as many tokens a pass as `tokloom compare decode`
    and benchmarks/decoding.py show, with the very text of plain decoding.
Differs: the authors' template of 80 nodes is fixed; here it is grown best first from how often each rank of M was
    right so far, and the loop verifies only as many nodes as pay on this machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from tokloom.decode.stage import Drafter, DraftState, DraftTree
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.vocabulary import Vocabulary

EMPTY = -1


@method(stage="decode")
class TokenRecycling(Drafter):
    """The matrix lives as long as the engine: later requests start hot."""

    candidates: int = Field(default=8, ge=1, le=64)
    """Tokens remembered after each token."""
    nodes: int = Field(default=48, ge=1, le=256)
    """Most nodes of a draft tree."""
    depth: int = Field(default=8, ge=1, le=32)
    """Most levels of a draft tree."""

    def start(self, vocabulary: Vocabulary, device: torch.device) -> DraftState:
        return RecyclingState(self, vocabulary.size)


class RecyclingState(DraftState):
    """The adjacency matrix and the hit rates of its ranks."""

    # Hits are halved when their count passes this, so that the rates follow the text.
    MEMORY = 2048
    REGROW = 64

    def __init__(self, options: TokenRecycling, vocabulary: int) -> None:
        self.options = options
        self.matrix = np.full((vocabulary, options.candidates), EMPTY, dtype=np.int32)
        self.trials = 1.0
        # A start that favours low ranks; a few passes outweigh it.
        self.hits = 0.5 * 0.4 ** np.arange(options.candidates, dtype=np.float64)
        self._grow()

    def _grow(self) -> None:
        """The template: for each node its parent, its rank and its chance, best first, parents first."""
        rates = np.minimum.accumulate(np.clip(self.hits / self.trials, 1e-6, 0.999))
        self.parents: list[int] = []
        self.ranks: list[int] = []
        self.chances: list[float] = []
        heap = [(-float(rates[0]), 0, EMPTY, 0, 1)]  # (-chance, order, parent, rank, depth)
        order = 0
        while heap and len(self.parents) < self.options.nodes:
            chance, _, parent, rank, depth = heapq.heappop(heap)
            node = len(self.parents)
            self.parents.append(parent)
            self.ranks.append(rank)
            self.chances.append(-chance)
            base = self.chances[parent] if parent >= 0 else 1.0
            if rank + 1 < self.options.candidates:
                order += 1
                heapq.heappush(heap, (-base * float(rates[rank + 1]), order, parent, rank + 1, depth))
            if depth < self.options.depth:
                order += 1
                heapq.heappush(heap, (chance * float(rates[0]), order, node, 0, depth + 1))
        self.observed = 0

    def propose(self, tokens: Sequence[int], limit: int) -> DraftTree:
        drafted: list[int] = []
        parents: list[int] = []
        chances: list[float] = []
        place: list[int] = []  # template node -> node of this tree, EMPTY where the matrix had no entry
        for parent, rank, chance in zip(self.parents, self.ranks, self.chances, strict=True):
            if len(drafted) >= limit:
                break
            above = place[parent] if parent >= 0 else EMPTY
            if parent >= 0 and above == EMPTY:
                place.append(EMPTY)
                continue
            token = int(self.matrix[drafted[above] if parent >= 0 else tokens[-1], rank])
            if token == EMPTY:
                place.append(EMPTY)
                continue
            place.append(len(drafted))
            drafted.append(token)
            parents.append(above)
            chances.append(chance)
        return DraftTree(tuple(drafted), tuple(parents), tuple(chances))

    def observe(self, tokens: Sequence[int], logits: torch.Tensor) -> None:
        rows = np.asarray(tokens)
        top = logits.topk(self.options.candidates, dim=-1).indices.to("cpu", torch.int32).numpy()
        known = self.matrix[rows]
        met = known[:, 0] != EMPTY
        self.trials += int(met.sum())
        self.hits += (known[met] == top[met, :1]).sum(0)
        if self.trials > self.MEMORY:
            self.trials, self.hits = self.trials / 2, self.hits / 2
        self.matrix[rows] = top
        self.observed += len(rows)
        if self.observed >= self.REGROW:
            self._grow()
