"""Token Recycling drafts from the candidates that the model rejected when it last met the same token.

Paper: P42. Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling.
    arXiv:2408.08696
Formula: M[t] = the `candidates` likeliest next tokens when t was last seen, drafted or accepted. Draft tree: the root
    is the last token; a node with token t has children M[t][0], M[t][1], ...
Shapes: M a row of up to `candidates` for each token met; a tree of up to `nodes` nodes, one forward pass of nodes + 1
    rows.
Effect: the paper doubles the speed of 7B models at under 2 MB (2.7 tokens a pass on Spec-Bench). Here, with the very
    text of plain decoding, SmolLM2-135M gets 1.8 tokens a pass where 24 rows are free (answers of 96 tokens); on two
    cores with exact weights, where they cost five passes, so few nodes pay that it is 1.08 tokens and 1.05 times the
    speed (benchmarks/decoding.py, one run).
Differs: the authors' tree is a template of 80 nodes, fixed by hand. Here it is grown best first: a child's chance is
    its parent's times how often that rank of M was right lately, counted apart by how far the likeliest follower led
    the next when t was last seen, and by whether it was the same one the time before. The prompt's own followers enter
    M before the first pass (`prompt`), which the authors leave empty. The loop verifies only as many nodes as pay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tokloom.decode.candidates import top_tokens
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftState
from tokloom.registry import method

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tokloom.decode.drafter import DraftRequest, Verified
    from tokloom.models.language_model import LanguageModel

EMPTY = -1
NOTHING: tuple[list[int], int] = ([], 0)
LEADS = (0.5, 1.0, 2.0, 4.0)
"""Differences of the two highest logits at which a higher kind of row begins."""

FIRST = (0.23, 0.62, 0.31, 0.62, 0.27, 0.77, 0.27, 0.86, 0.27, 0.92, 0.32, 0.6)
"""First guesses of how often the likeliest candidate of each kind of row comes: what SmolLM2-135M's answers to 48
questions of Spec-Bench gave."""
PRIOR = 16.0
"""Trials that they are worth."""


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
        return RecyclingState(self)


class RecyclingState(DraftState):
    """The adjacency matrix, as rows by token, and how often its ranks are right."""

    MEMORY = 256
    """Counts are halved beyond so many trials, so that the rates follow the text."""
    KINDS = 2 * (len(LEADS) + 1) + 2

    def __init__(self, options: TokenRecycling) -> None:
        self.options = options
        self.rows: dict[int, tuple[list[int], int]] = {}
        """After each token its candidates, and how sure they are: 2 * how far the likeliest led, + 1 where it was the
        same the last two times; the last two kinds are rows that the model has not been asked for, with only what
        followed in a text in front."""
        self.trials = [PRIOR] * self.KINDS
        self.hits = [[PRIOR * probability for probability in first_guess(first, options.candidates)] for first in FIRST]

        self.rates = [self._rates_of(kind) for kind in range(self.KINDS)]

    def _rates_of(self, kind: int) -> list[float]:
        """Chance of each rank, never rising with the rank."""
        trials = self.trials[kind]
        return list(accumulate((hit / trials for hit in self.hits[kind]), min))

    def read(self, tokens: Sequence[int], known: int = 0) -> None:
        if not self.options.prompt:
            return
        rows, maximum = self.rows, self.options.candidates
        for token, follower in pairwise(tokens[max(0, known - 1) :]):
            row = rows.get(token, NOTHING)[0]
            if row and row[0] == follower:
                rows[token] = (row, self.KINDS - 1)
            else:
                rest = [other for other in row if other != follower]
                rows[token] = ([follower, *rest][:maximum], self.KINDS - 2)

    def propose(self, request: DraftRequest) -> DraftTree:
        rates, minimum, rows = self.rates, request.minimum, self.rows
        maximum, depths = min(request.limit, self.options.nodes), self.options.depth
        drafted: list[int] = []
        parents: list[int] = []
        probabilities: list[float] = []
        # Each entry is the next child of a node: what goes before it in the order, the node, its candidates with their
        # rates, the child's rank and depth, and the node's own chance.
        heap: list[tuple[float, int, int, list[int], list[float], int, int, float]] = []

        def offer(
            node: int, children: list[int], probability_of: list[float], rank: int, depth: int, base: float
        ) -> None:
            probability = base * probability_of[rank]
            if rank < len(children) and probability >= minimum:
                heappush(heap, (-probability, len(heap), node, children, probability_of, rank, depth, base))

        children, kind = rows.get(request.tokens[-1], NOTHING)
        offer(-1, children, rates[kind], 0, 1, 1.0)
        while heap and len(drafted) < maximum:
            probability, _, parent, children, probability_of, rank, depth, base = heappop(heap)
            node, child = len(drafted), children[rank]
            drafted.append(child)
            parents.append(parent)
            probabilities.append(-probability)
            if rank + 1 < len(children):
                offer(parent, children, probability_of, rank + 1, depth, base)
            if depth < depths and child in rows:
                below, kind = rows[child]
                offer(node, below, rates[kind], 0, depth + 1, -probability)
        return DraftTree(tuple(drafted), tuple(parents), tuple(probabilities))

    def observe(self, seen: Verified) -> None:
        count = min(self.options.candidates, seen.logits.shape[1])
        top = top_tokens(seen.logits, count)
        led = leads(seen.logits, top)
        path = set(seen.path)
        before = [self.rows.get(token, NOTHING) for token in seen.tokens]
        for row, (token, (known, kind), found, lead) in enumerate(
            zip(seen.tokens, before, top.tolist(), led, strict=True)
        ):
            if known and row in path:  # what follows a rejected token says nothing of the text
                self._count(kind, known, found[0])
            self.rows[token] = found, 2 * lead + bool(known and known[0] == found[0])

    def _count(self, kind: int, known: list[int], token: int) -> None:
        hits = self.hits[kind]
        self.trials[kind] += 1
        if token in known:
            hits[known.index(token)] += 1
        if self.trials[kind] > self.MEMORY:
            self.trials[kind] /= 2
            self.hits[kind] = [hit / 2 for hit in hits]
        self.rates[kind] = self._rates_of(kind)

    def arrays(self) -> dict[str, NDArray[Any]]:
        matrix = np.full((len(self.rows), self.options.candidates), EMPTY, dtype=np.int32)
        for row, (known, _) in zip(matrix, self.rows.values(), strict=True):
            row[: len(known)] = known
        return {
            "tokens": np.array(list(self.rows), dtype=np.int32), "matrix": matrix,
            "kinds": np.array([kind for _, kind in self.rows.values()], dtype=np.int8),
            "trials": np.array(self.trials), "hits": np.array(self.hits),
        }  # fmt: skip

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.trials, self.hits = arrays["trials"].tolist(), arrays["hits"].tolist()
        self.rates = [self._rates_of(kind) for kind in range(self.KINDS)]
        self.rows = {
            token: ([each for each in row if each != EMPTY], kind)
            for token, row, kind in zip(
                arrays["tokens"].tolist(), arrays["matrix"].tolist(), arrays["kinds"].tolist(), strict=True
            )
        }


def first_guess(first: float, candidates: int) -> list[float]:
    """Chances of the ranks after one of chance `first`: each takes two fifths of what the ones before it leave."""
    return [first, *((1 - first) * 0.16 * 0.55**rank for rank in range(candidates - 1))]


def leads(logits: torch.Tensor, top: NDArray[np.int32]) -> list[int]:
    """How many of `LEADS` the first of the candidates (rows, candidates) leads the second by, in each row of logits."""
    if top.shape[1] < 2:
        return [0] * len(top)
    given = logits.numpy(force=True)
    pairs = enumerate(top[:, :2].tolist())
    return [bisect_right(LEADS, float(given[row, first]) - float(given[row, second])) for row, (first, second) in pairs]
