"""ADED searches for drafts in a tri-gram picture of the model, weighing what it knows against what it has not tried.

Paper: P60. Adaptive Draft-Verification for Efficient Large Language Model Decoding. arXiv:2407.12021

Formula:
    From the root down, as long as nodes are known, take the child with the highest
        Q(s, a) + E(s) * P(a | s) * sqrt(N(s)) / (1 + N(s, a)),   E(s) = c1 + log((N(s) + c2 + 1) / c2)
    then add the child chosen below the last known node. P is the source's distribution, N counts visits, and Q is the
    mean reward of the searches through (s, a). Reward of a search: the expected number of accepted tokens on its
    path, the sum of the products of P from the root on, over the path's length.

Shapes: `searches` walks from the root, each of which adds at most one node.

Effect: the paper reports up to 2.5x over plain decoding, without training. The test: the scores are those of a naive
    twin, and a higher `c1` gives broader trees. On Spec-Bench with exact weights it gives 1.06 tokens a pass and
    takes 7% of the speed (benchmarks/decoding.py).

Differs: only the abstract and summaries were to be had. The rule of choice above is that of AlphaZero's tree search,
    as a summary has it; its constants, the reward and the search's end are reconstructed. Nodes are verified only as
    far as they pay on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


@method(stage="decode")
class ADED(Drafter):
    """The source learns from every pass, rejected branches included."""

    source: str = "trigram"
    """The picture of the model that is searched."""
    searches: int = Field(default=48, ge=1, le=256)
    """Walks from the root for one draft."""
    depth: int = Field(default=8, ge=1, le=32)
    """Most levels of a draft tree."""
    c1: float = Field(default=0.5, ge=0)
    """Weight of exploration."""
    c2: float = Field(default=50.0, gt=0)
    """Visits beyond which exploration gains weight."""

    def __post_init__(self) -> None:
        registry.build(self.source, DraftSource, "aded:source")

    def start(self, model: LanguageModel) -> DraftState:
        return ADEDState(self, model)


class Node:
    """A state of the search: what may follow, and what came of trying it."""

    def __init__(self, place: int, followers: Followers) -> None:
        self.place = place
        """Its number in the source's walk."""
        self.tokens: list[int] = followers.tokens.tolist()
        self.probabilities: list[float] = followers.probabilities.tolist()
        self.visits = [0] * len(self.tokens)
        self.rewards = [0.0] * len(self.tokens)
        self.children: dict[int, Node] = {}

    def best(self, c1: float, c2: float) -> int:
        """The index of the child to take next; there must be one."""
        total = sum(self.visits)
        explore = (c1 + math.log((total + c2 + 1) / c2)) * math.sqrt(total or 1)

        def score(i: int) -> float:
            mean = self.rewards[i] / self.visits[i] if self.visits[i] else 0.0
            return mean + explore * self.probabilities[i] / (1 + self.visits[i])

        return max(range(len(self.tokens)), key=score)


class ADEDState(DraftState):
    """The source's state, and how often nodes of each chance were right."""

    def __init__(self, options: ADED, model: LanguageModel) -> None:
        self.options = options
        self.source = registry.build(options.source, DraftSource, "aded:source").start(model)
        self.rates = HitRates([(i + 0.5) / BINS for i in range(BINS)])

    def check(self, prediction: Prediction) -> None:
        self.source.check_tree(prediction)

    def read(self, tokens: Sequence[int], known: int = 0) -> None:
        self.source.read(tokens, known)

    def propose(self, request: DraftRequest) -> DraftTree:
        walk = self.source.open(request)
        root, places = Node(0, walk.root()), 0
        for _ in range(min(self.options.searches, request.limit)):
            node = root
            path: list[tuple[Node, int]] = []
            probabilities: list[float] = []
            while node.tokens and len(path) < self.options.depth:
                taken = node.best(self.options.c1, self.options.c2)
                path.append((node, taken))
                probabilities.append((probabilities[-1] if probabilities else 1.0) * node.probabilities[taken])
                if taken not in node.children:
                    places += 1
                    (followers,) = walk.expand([(node.place, node.tokens[taken])])
                    node.children[taken] = Node(places, followers)
                    break
                node = node.children[taken]
            if not path:
                break
            reward = sum(probabilities) / len(probabilities)
            for above, index in path:
                above.visits[index] += 1
                above.rewards[index] += reward
        tree = TokenTree(request.limit)
        self._collect(tree, root, -1, 1.0)
        return tree.build()

    def _collect(self, tree: TokenTree, node: Node, parent: int, probability: float) -> None:
        for index, child in node.children.items():
            kind = min(int(node.probabilities[index] * BINS), BINS - 1)
            value = probability * min(0.999, node.probabilities[index] * self.rates.rate(kind) / ((kind + 0.5) / BINS))
            place = tree.add(node.tokens[index], parent, value, kind)
            self._collect(tree, child, place, value)

    def observe(self, seen: Verified) -> None:
        self.source.observe(seen)

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"rates": self.rates.counts, **{f"source.{k}": v for k, v in self.source.arrays().items()}}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.rates.counts = arrays["rates"]
        self.source.restore({k.removeprefix("source."): v for k, v in arrays.items() if k != "rates"})
