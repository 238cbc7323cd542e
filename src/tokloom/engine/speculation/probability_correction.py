"""How likely drafted tokens are to come, learned from what became of all that were proposed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from tokloom.decode.draft_tree import DraftTree

EDGES = (0.06, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96)
"""Chances, given the parent, at which a further kind of node begins."""
DEPTHS = (2, 3, 5, 9)
"""Levels of the tree at which a further kind begins."""
HIGHEST = 0.995
KINDS = (len(EDGES) + 1) * (len(DEPTHS) + 1)
"""Of a drafter's nodes; as many are of those that a constraint expects."""


class Proposal:
    """A drafter's tree, and what its nodes' chances turned out to be worth.

    given: each node's chance after its parent, as the drafter has it. kinds: indices into the record. depths: 1 for a
        child of the root.
    guesses: how many nodes there are on the way to each, itself included, that no constraint expects.
    probabilities: of each node to be reached from the root, corrected. factor: of the request, which is in them.
    """

    __slots__ = ("children", "depths", "factor", "given", "guesses", "kinds", "probabilities", "tree")

    def __init__(self, tree: DraftTree, factor: float) -> None:
        self.tree, self.factor = tree, factor
        self.given: list[float] = []
        self.kinds: list[int] = []
        self.probabilities: list[float] = []
        self.depths: list[int] = []
        self.guesses: list[int] = []
        self.children: dict[int, list[int]] = {}
        """Nodes below each node, -1 for the root."""
        for node, parent in enumerate(tree.parents):
            self.children.setdefault(parent, []).append(node)


class ProbabilityCorrection:
    """Corrects a drafter's chances, whatever it rests them on, by how often nodes of like chance and depth came.

    corrected = given * (hits + PRIOR) / (expected + PRIOR), expected being the sum of the chances that the drafter gave
    to such nodes. A drafter is believed until it has been seen to be wrong.
    """

    PRIOR = 4.0
    MEMORY = 300.0
    """Expected hits beyond which both counts are halved, so that the record follows the text."""

    def __init__(self) -> None:
        self.hits = [0.0] * 2 * KINDS
        self.expected = [0.0] * 2 * KINDS

    def propose(self, tree: DraftTree, factor: float = 1.0, expected: Sequence[bool] = ()) -> Proposal:
        """The tree with corrected chances.

        factor: a further one, of the request at hand. expected: nodes that a constraint expects; they are recorded
            apart, and one that it makes certain, of its parent's chance, is believed."""
        prior, hits, sums = self.PRIOR, self.hits, self.expected
        proposal = Proposal(tree, factor)
        given, kinds, probabilities, depths = proposal.given, proposal.kinds, proposal.probabilities, proposal.depths
        guesses = proposal.guesses
        drafted = tree.probabilities
        apart = expected or (False,) * len(tree)
        for parent, whole, is_expected in zip(tree.parents, drafted, apart, strict=True):
            if parent >= 0:
                own, base, depth = whole / max(drafted[parent], 1e-9), probabilities[parent], depths[parent] + 1
            else:
                own, base, depth = whole, 1.0, 1
            kind = bisect_right(EDGES, own) * (len(DEPTHS) + 1) + bisect_right(DEPTHS, depth) + is_expected * KINDS
            rate = own * (hits[kind] + prior) / (sums[kind] + prior)
            if not is_expected:
                rate *= factor
            depths.append(depth)
            guesses.append((guesses[parent] if parent >= 0 else 0) + (not is_expected))
            given.append(own)
            kinds.append(kind)
            probabilities.append(base if is_expected and own == 1.0 else base * (rate if rate < HIGHEST else HIGHEST))
        return proposal

    def record(self, proposal: Proposal, node: int, hit: bool) -> None:
        """The text went on from the node's parent, with it or without."""
        kind = proposal.kinds[node]
        self.hits[kind] += hit
        self.expected[kind] += proposal.given[node]
        if self.expected[kind] > self.MEMORY:
            self.hits[kind] /= 2
            self.expected[kind] /= 2


class RequestTracker:
    """One request's proposals, each followed along the text that comes: also nodes that were not verified are judged.

    factor: how much more or less often than forecast proposed tokens came in this request.
    worth: what proposals were worth of late in this request, in plain passes; see `DraftGate`.
    reach: levels of guesses that may be verified. It begins low and follows what is accepted: long copies are right one
        after the other in a text that goes round in circles, and wrong altogether in one that does not, so that their
        chances, which are means over texts, say little of a text that has just begun.
    """

    PRIOR = 8.0
    MEMORY = 48.0
    RATE = 0.08
    FIRST = 4
    """Levels of guesses that may be verified at first."""
    GROWTH = 2
    """So many more for each that was accepted; where fewer were, `reach` falls by half at most."""

    def __init__(self, worth: float = 0.0) -> None:
        self.worth = worth
        self.told = 0
        """Tokens of the text that the drafter has been told of."""
        self.reach = self.FIRST
        self.guesses: list[int] = []
        """Of the nodes that are being verified; see `Proposal`."""
        self._open: list[tuple[Proposal, int, int]] = []
        self._hits = self._expected = 0.0

    @property
    def factor(self) -> float:
        return (self._hits + self.PRIOR) / (self._expected + self.PRIOR)

    def asked(self, worth: float) -> None:
        """A proposal is forecast to save so much."""
        self.worth += self.RATE * (worth - self.worth)

    def verified(self, path: Sequence[int]) -> None:
        """The nodes of `guesses` were verified. path: as of `Verified`, of the tree's rows."""
        if not self.guesses:
            return
        accepted = max((self.guesses[row - 1] for row in path if row > 0), default=0)
        self.reach = max(self.reach // 2, self.FIRST + self.GROWTH * accepted)

    def add(self, proposal: Proposal, length: int) -> None:
        """Follows a tree below the text's first `length` tokens."""
        self._open.append((proposal, -1, length))

    def outcomes(self, tokens: Sequence[int]) -> Iterator[tuple[Proposal, int, bool]]:
        """The nodes that the text, now `tokens`, has decided on since it was last asked, and whether it took them."""
        held, self._open = self._open, []
        size = len(tokens)
        for proposal, node, place in held:
            found = proposal.tree.tokens
            children = proposal.children.get(node)
            while children and place < size:
                token, node = tokens[place], -2
                for child in children:
                    hit = found[child] == token
                    if hit:
                        node = child
                    yield proposal, child, hit
                place += 1
                children = proposal.children.get(node)
            if children:
                self._open.append((proposal, node, place))

    def record(self, proposal: Proposal, node: int, hit: bool) -> None:
        """As `ProbabilityCorrection.record`, for `factor`, which is the drafter's."""
        if proposal.kinds[node] >= KINDS:
            return
        parent = proposal.tree.parents[node]
        base = proposal.probabilities[parent] if parent >= 0 else 1.0
        self._hits += hit
        self._expected += proposal.probabilities[node] / base / proposal.factor
        if self._expected > self.MEMORY:
            self._hits /= 2
            self._expected /= 2
