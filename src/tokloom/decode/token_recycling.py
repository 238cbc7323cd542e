"""Token Recycling drafts from the candidates that the model rejected when it last met the same token.

Paper: P42. Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling.
    arXiv:2408.08696
Formula: M[t] = the `candidates` likeliest next tokens when t was last seen, drafted or accepted. Draft tree: the root
    is the last token; a node with token t has children M[t][0], M[t][1], ...
Shapes: M int32 (vocabulary, candidates); a tree of up to `nodes` nodes, one forward pass of nodes + 1 rows.
Effect: the paper doubles the speed of 7B models at under 2 MB. Here, as many tokens a pass as `tokloom compare decode`
    and benchmarks/decoding.py show, with the very text of plain decoding.
Differs: the authors' tree is a template of 80 nodes, fixed by hand. Here it is grown best first: a child's chance is
    its parent's times how often that rank of M was right lately, counted apart for tokens whose likeliest follower was
    the same the last two times and for others. The prompt's own followers enter M before the first pass (`prompt`),
    which the authors leave empty. The loop verifies only as many nodes as pay on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tokloom.decode.candidates import likeliest
from tokloom.decode.stage import Drafter, DraftState, DraftTree
from tokloom.registry import method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.decode.stage import DraftRequest, Verified
    from tokloom.models.language_model import LanguageModel

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
    prompt: bool = True
    """Whether what follows a token in the prompt becomes its first candidate; without, M knows outputs only."""

    def start(self, model: LanguageModel) -> DraftState:
        return RecyclingState(self, model.vocabulary.size)


class RecyclingState(DraftState):
    """The adjacency matrix, and how often its ranks are right."""

    MEMORY = 256
    """Counts are halved beyond so many trials, so that the rates follow the text."""

    def __init__(self, options: TokenRecycling, vocabulary: int) -> None:
        self.options = options
        self.matrix = np.full((vocabulary, options.candidates), EMPTY, dtype=np.int32)
        self.steady = np.zeros(vocabulary, dtype=np.int8)
        """1 where the likeliest follower was the same the last two times."""
        # Rows: other tokens, steady ones. A start that favours low ranks, outweighed after a few passes.
        self.trials = np.array([1.0, 1.0])
        self.hits = np.array([[0.4], [0.6]]) * 0.4 ** np.arange(options.candidates)

    def rates(self) -> list[list[float]]:
        """Chance of each rank for other and for steady tokens, never rising with the rank."""
        measured: list[list[float]] = np.minimum.accumulate(self.hits / self.trials[:, None], axis=1).tolist()
        return measured

    def read(self, tokens: Sequence[int]) -> None:
        if not self.options.prompt:
            return
        for token, follower in pairwise(tokens):
            row = self.matrix[token]
            self.steady[token] = row[0] == follower
            if row[0] != follower:
                place = next((rank for rank, known in enumerate(row) if known == follower), len(row) - 1)
                row[1 : place + 1] = row[:place].copy()
                row[0] = follower

    def propose(self, request: DraftRequest) -> DraftTree:
        rates = self.rates()
        drafted: list[int] = []
        parents: list[int] = []
        chances: list[float] = []
        heap: list[tuple[float, int, int, int, int, int, float]] = []

        def offer(token: int, rank: int, parent: int, depth: int, base: float) -> None:
            """The child of that rank of a node with this token and chance."""
            if rank < self.options.candidates and depth <= self.options.depth and self.matrix[token, rank] != EMPTY:
                chance = base * rates[self.steady[token]][rank]
                heappush(heap, (-chance, len(heap), token, rank, parent, depth, base))

        offer(request.tokens[-1], 0, -1, 1, 1.0)
        while heap and len(drafted) < min(request.limit, self.options.nodes):
            chance, _, token, rank, parent, depth, base = heappop(heap)
            node, child = len(drafted), int(self.matrix[token, rank])
            drafted.append(child)
            parents.append(parent)
            chances.append(-chance)
            offer(token, rank + 1, parent, depth, base)
            offer(child, 0, node, depth + 1, -chance)
        return DraftTree(tuple(drafted), tuple(parents), tuple(chances))

    def observe(self, seen: Verified) -> None:
        rows = np.asarray(seen.tokens)
        top = likeliest(seen.logits, self.options.candidates)
        known = self.matrix[rows]
        for row in seen.path:  # what follows a rejected token says nothing of the text
            if known[row, 0] != EMPTY:
                kind = self.steady[rows[row]]
                self.trials[kind] += 1
                self.hits[kind] += known[row] == top[row, 0]
                if self.trials[kind] > self.MEMORY:
                    self.trials[kind] /= 2
                    self.hits[kind] /= 2
        self.steady[rows] = known[:, 0] == top[:, 0]
        self.matrix[rows] = top

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"matrix": self.matrix, "steady": self.steady, "trials": self.trials, "hits": self.hits}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.matrix, self.steady = arrays["matrix"], arrays["steady"]
        self.trials, self.hits = arrays["trials"], arrays["hits"]
