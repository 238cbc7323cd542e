"""DySpec grows the draft tree at run time, always where the draft distribution says that acceptance is likeliest.

Paper: P58. DySpec: Faster Speculative Decoding with Dynamic Token Tree Structure. arXiv:2410.11744

Formula:
    value(root) = 1; a child that the source gives chance p has value(child) = value(parent) * p
    Heap of the next untried child of every node; take the highest value, add it to the tree, offer its next sibling
    (value(parent) * its p) and its own first child. Stop at `nodes` nodes or below `threshold`.

Shapes: a tree of up to `nodes` nodes; the source is asked once a level (the paper's threshold variant) or once a node.

Effect: the paper accepts more tokens a pass than fixed trees, by up to 9.1x the throughput for Llama2-70B. The test
    compares the tree with an exhaustive search: no tree of the same size has a higher sum of values.

Differs: the paper draws siblings without replacement from the draft distribution, and accepts by rejection sampling;
    here siblings come likeliest first, as a drafted token counts only if the request's own random number picks it.
    The value of the second sibling is then the same: (1 - p1) * p2 / (1 - p1) = p2. Chances are calibrated by how
    often nodes of like value were accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tokloom import registry
from tokloom.decode.draft_source import DraftSource, Followers
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.hit_rates import HitRates
from tokloom.decode.prediction import Prediction
from tokloom.decode.token_tree import TokenTree
from tokloom.registry import method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.models.language_model import LanguageModel

BINS = 10
"""Kinds of nodes, by the chance that the source gives them."""

Sibling = tuple[int, float, int]
"""A token, its chance given the tokens above, and its kind."""


@method(stage="decode")
class DySpec(Drafter):
    """Whatever can say what comes next may be the source."""

    source: str = "trigram"
    """Where the draft distribution comes from, e.g. draft_model:model=...,weights=int4."""
    nodes: int = Field(default=32, ge=1, le=63)
    """Most nodes of a draft tree."""
    depth: int = Field(default=8, ge=1, le=32)
    """Most levels of a draft tree."""
    threshold: float = Field(default=0.02, ge=0, lt=1)
    """Nodes of a lower value are not drafted."""
    by_level: bool = True
    """The source is asked once a level, for all nodes above the threshold; else once a node, in order of value."""

    def __post_init__(self) -> None:
        registry.build(self.source, DraftSource, "dyspec:source")

    def start(self, model: LanguageModel) -> DraftState:
        return DySpecState(self, model)


class DySpecState(DraftState):
    """The source's state, and how often nodes of each chance were right."""

    def __init__(self, options: DySpec, model: LanguageModel) -> None:
        self.options = options
        self.source = registry.build(options.source, DraftSource, "dyspec:source").start(model)
        self.rates = HitRates([(i + 0.5) / BINS for i in range(BINS)])

    def check(self, prediction: Prediction) -> None:
        self.source.check_tree(prediction)

    def read(self, tokens: Sequence[int], known: int = 0) -> None:
        self.source.read(tokens, known)

    def propose(self, request: DraftRequest) -> DraftTree:
        tree = TokenTree(min(request.limit, self.options.nodes))
        grow = self._by_level if self.options.by_level else self._by_node
        grow(tree, request)
        return tree.build()

    def _by_node(self, tree: TokenTree, request: DraftRequest) -> None:
        walk = self.source.open(request)
        # -value, order; then what it takes to add it: node of the tree and of the walk above, depth, siblings, rank
        heap: list[tuple[float, int, int, int, int, list[Sibling], int]] = []

        def offer(node: int, place: int, depth: int, siblings: list[Sibling], rank: int) -> None:
            if rank < len(siblings) and depth <= self.options.depth:
                value = (tree.probabilities[node] if node >= 0 else 1.0) * siblings[rank][1]
                if value >= self.options.threshold:
                    heappush(heap, (-value, len(places) + rank, node, place, depth, siblings, rank))

        places = [0]
        offer(-1, 0, 1, self._calibrated(walk.root()), 0)
        while heap and len(tree) < tree.limit:
            value, _, node, place, depth, siblings, rank = heappop(heap)
            token, _, kind = siblings[rank]
            added = tree.add(token, node, -value, kind)
            offer(node, place, depth, siblings, rank + 1)
            if len(tree) < tree.limit and depth < self.options.depth:
                places.append(len(places))
                offer(added, places[-1], depth + 1, self._calibrated(walk.expand([(place, token)])[0]), 0)

    def _by_level(self, tree: TokenTree, request: DraftRequest) -> None:
        """All nodes above the threshold, level by level; the likeliest `nodes` of them stay."""
        walk = self.source.open(request)
        found: list[tuple[int, float, Sibling]] = []  # node of the walk above, value, the node itself
        level, values = [(0, self._calibrated(walk.root()))], [1.0]
        for depth in range(1, self.options.depth + 1):
            fresh = [(node, values[node] * sibling[1], sibling) for node, siblings in level for sibling in siblings]
            fresh = sorted((node for node in fresh if node[1] >= self.options.threshold), key=lambda node: -node[1])
            del fresh[tree.limit :]
            first = len(values)
            values += [value for _, value, _ in fresh]
            found += fresh
            if not fresh or depth == self.options.depth:
                break
            below = walk.expand([(node, sibling[0]) for node, _, sibling in fresh])
            level = [(first + i, self._calibrated(followers)) for i, followers in enumerate(below)]
        kept = sorted(range(len(found)), key=lambda i: (-found[i][1], i))[: tree.limit]
        places = {0: -1}
        for i in sorted(kept):
            parent, value, (token, _, kind) = found[i]
            places[i + 1] = tree.add(token, places[parent], value, kind)

    def _calibrated(self, followers: Followers) -> list[Sibling]:
        """The candidates with the chances that they turned out to have, none above the one before it."""
        siblings: list[Sibling] = []
        highest = 0.999
        for token, given in zip(followers.tokens.tolist(), followers.probabilities.tolist(), strict=True):
            kind = min(int(given * BINS), BINS - 1)
            highest = min(highest, given * self.rates.rate(kind) / ((kind + 0.5) / BINS))
            siblings.append((token, highest, kind))
        return siblings

    def observe(self, seen: Verified) -> None:
        self.source.observe(seen)

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"rates": self.rates.counts, **{f"source.{k}": v for k, v in self.source.arrays().items()}}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.rates.counts = arrays["rates"]
        self.source.restore({k.removeprefix("source."): v for k, v in arrays.items() if k != "rates"})
