"""Token Recycling drafts from the candidates that the model rejected when it last met the same token.

Paper: P42. Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling.
    arXiv:2408.08696
Formula: M[t] = the `candidates` likeliest next tokens when t was last seen, drafted or accepted. Draft tree: the root
    is the last token; a node with token t has children M[t][0], M[t][1], ...
Shapes: M int32 (vocabulary, candidates); a tree of up to `nodes` nodes, one forward pass of nodes + 1 rows.
Effect: the paper doubles the speed of 7B models at under 2 MB (2.7 tokens a pass on Spec-Bench). Here, with the very
    text of plain decoding, SmolLM2-135M gets 1.85 tokens a pass where 24 rows are free; on two cores with exact
    weights, where they cost seven passes, so few nodes pay that it is 1.06 tokens and 1.04 times the speed
    (benchmarks/decoding.py).
Differs: the authors' tree is a template of 80 nodes, fixed by hand. Here it is grown best first: a child's chance is
    its parent's times how often that rank of M was right lately, counted apart by how far the likeliest follower led
    the next when t was last seen, and by whether it was the same one the time before. The prompt's own followers enter
    M before the first pass (`prompt`), which the authors leave empty. The loop verifies only as many nodes as pay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tokloom.decode.candidates import likeliest
from tokloom.decode.stage import Drafter, DraftState, DraftTree
from tokloom.registry import method

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tokloom.decode.stage import DraftRequest, Verified
    from tokloom.models.language_model import LanguageModel

EMPTY = -1
LEADS = (0.5, 1.0, 2.0, 4.0)
"""Differences of the two highest logits at which a higher kind of row begins."""


@method(stage="decode")
class TokenRecycling(Drafter):
    """The matrix lives as long as the engine: later requests start hot."""

    published: ClassVar[float | None] = 2.73

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
        self.kinds = np.zeros(vocabulary, dtype=np.int8)
        """How sure a row is: 2 * how far the likeliest follower led, + 1 where it was the same the last two times."""
        # A start that favours low ranks, outweighed after a few passes.
        kinds = 2 * (len(LEADS) + 1)
        self.trials = np.ones(kinds)
        self.hits = np.linspace(0.3, 0.7, kinds)[:, None] * 0.4 ** np.arange(options.candidates)

    def rates(self) -> list[list[float]]:
        """Chance of each rank by kind, never rising with the rank."""
        measured: list[list[float]] = np.minimum.accumulate(self.hits / self.trials[:, None], axis=1).tolist()
        return measured

    def read(self, tokens: Sequence[int]) -> None:
        if not self.options.prompt:
            return
        for token, follower in pairwise(tokens):
            row = self.matrix[token]
            self.kinds[token] = row[0] == follower
            if row[0] != follower:
                place = next((rank for rank, known in enumerate(row) if known == follower), len(row) - 1)
                row[1 : place + 1] = row[:place].copy()
                row[0] = follower

    def propose(self, request: DraftRequest) -> DraftTree:
        rates, least = self.rates(), request.least
        most, depths, ranks = min(request.limit, self.options.nodes), self.options.depth, self.options.candidates
        drafted: list[int] = []
        parents: list[int] = []
        chances: list[float] = []
        # Each entry is the next child of a node: what goes before it in the order, the node, its candidates with their
        # rates, the child's rank and depth, and the node's own chance.
        heap: list[tuple[float, int, int, list[int], list[float], int, int, float]] = []

        def offer(node: int, children: list[int], chance_of: list[float], rank: int, depth: int, base: float) -> None:
            chance = base * chance_of[rank]
            if children[rank] != EMPTY and chance >= least:
                heappush(heap, (-chance, len(heap), node, children, chance_of, rank, depth, base))

        last = request.tokens[-1]
        offer(-1, self.matrix[last].tolist(), rates[self.kinds[last]], 0, 1, 1.0)
        while heap and len(drafted) < most:
            chance, _, parent, children, chance_of, rank, depth, base = heappop(heap)
            node, child = len(drafted), children[rank]
            drafted.append(child)
            parents.append(parent)
            chances.append(-chance)
            if rank + 1 < ranks:
                offer(parent, children, chance_of, rank + 1, depth, base)
            if depth < depths:
                offer(node, self.matrix[child].tolist(), rates[self.kinds[child]], 0, depth + 1, -chance)
        return DraftTree(tuple(drafted), tuple(parents), tuple(chances))

    def observe(self, seen: Verified) -> None:
        rows = np.asarray(seen.tokens)
        top = likeliest(seen.logits, self.options.candidates)
        known = self.matrix[rows]
        for row in seen.path:  # what follows a rejected token says nothing of the text
            if known[row, 0] != EMPTY:
                kind = self.kinds[rows[row]]
                self.trials[kind] += 1
                self.hits[kind] += known[row] == top[row, 0]
                if self.trials[kind] > self.MEMORY:
                    self.trials[kind] /= 2
                    self.hits[kind] /= 2
        self.kinds[rows] = 2 * leads(seen.logits, top) + (known[:, 0] == top[:, 0])
        self.matrix[rows] = top

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"matrix": self.matrix, "kinds": self.kinds, "trials": self.trials, "hits": self.hits}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.matrix, self.kinds = arrays["matrix"], arrays["kinds"]
        self.trials, self.hits = arrays["trials"], arrays["hits"]


def leads(logits: torch.Tensor, top: NDArray[np.int32]) -> NDArray[np.int8]:
    """How many of `LEADS` the first of the candidates (rows, candidates) leads the second by, in each row of logits."""
    if top.shape[1] < 2:
        return np.zeros(len(top), dtype=np.int8)
    given = logits.cpu().numpy()
    rows = np.arange(len(top))
    found: NDArray[np.int8] = np.digitize(given[rows, top[:, 0]] - given[rows, top[:, 1]], LEADS).astype(np.int8)
    return found
