"""What a constraint expects, grafted onto a drafter's tree: behind each token what it makes certain or likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokloom.decode.constraint import Matcher
from tokloom.decode.draft_tree import DraftTree


@dataclass(frozen=True)
class Grafted:
    """A tree, and for each of its nodes whether the constraint expects it, with or without the drafter."""

    tree: DraftTree
    expected: tuple[bool, ...]


def graft(tree: DraftTree, matcher: Matcher, minimum: float = 0.0, ends: frozenset[int] = frozenset()) -> Grafted:
    """The nodes of a drafter's tree that the constraint allows, with what it expects after the root and after each
    node of a chance of `minimum` and more.

    ends: tokens that end a text. They are left out: their row would say nothing."""
    return _Graft(tree, matcher, minimum, ends).run()


class _Graft:
    """Nodes of both; a node's chance is kept relative to its parent's, as equal nodes take the higher one."""

    def __init__(self, tree: DraftTree, matcher: Matcher, minimum: float, ends: frozenset[int]) -> None:
        self.tree, self.minimum, self.ends = tree, minimum, ends
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.shares: list[float] = []
        self.probabilities: list[float] = []
        self.marks: list[Any] = []
        self.expected: list[bool] = []
        self.places: dict[int, Matcher] = {-1: matcher}
        """Matchers after nodes, where they were asked for."""
        self.children: dict[tuple[int, int], int] = {}
        self.forced: dict[int, int] = {}
        """By node, the only token that may follow it."""

    def run(self) -> Grafted:
        self._expect(-1)
        kept: dict[int, int] = {-1: -1}
        drafted = self.tree
        for node, (token, parent) in enumerate(zip(drafted.tokens, drafted.parents, strict=True)):
            above = kept.get(parent)
            if above is None or token in self.ends or self.forced.get(above, token) != token:
                continue
            place = self._place(above).after(token)
            if place is None:
                continue
            whole = drafted.probabilities[parent] if parent >= 0 else 1.0
            share = min(1.0, drafted.probabilities[node] / whole) if whole > 0 else 0.0
            known = self.children.get((above, token))
            if known is None:
                known = self._add(token, above, share, False)
                self.places[known] = place
                if self.probabilities[known] >= self.minimum:
                    self._expect(known)
            elif share > self.shares[known]:
                self.shares[known] = share
            if drafted.marks:
                self.marks[known] = drafted.marks[node]
            kept[node] = known
        probabilities: list[float] = []
        for parent, share in zip(self.parents, self.shares, strict=True):
            probabilities.append(share * (probabilities[parent] if parent >= 0 else 1.0))
        marks = tuple(self.marks) if drafted.marks else ()
        return Grafted(
            DraftTree(tuple(self.tokens), tuple(self.parents), tuple(probabilities), marks), tuple(self.expected)
        )

    def _add(self, token: int, parent: int, share: float, expected: bool) -> int:
        node = len(self.tokens)
        self.children[parent, token] = node
        self.tokens.append(token)
        self.parents.append(parent)
        self.shares.append(share)
        self.probabilities.append(share * (self.probabilities[parent] if parent >= 0 else 1.0))
        self.marks.append(None)
        self.expected.append(expected)
        return node

    def _expect(self, node: int) -> None:
        """Adds what the constraint expects after a node."""
        expected = self.places[node].expected()
        added: list[int] = []
        for place, (token, parent) in enumerate(zip(expected.tokens, expected.parents, strict=True)):
            if token in self.ends:  # nothing is below it
                added.append(-1)
                continue
            above = added[parent] if parent >= 0 else node
            share = expected.probabilities[place] / (expected.probabilities[parent] if parent >= 0 else 1.0)
            if share == 1.0:
                self.forced[above] = token
            added.append(self._add(token, above, share, True))

    def _place(self, node: int) -> Matcher:
        """The matcher after a node."""
        if node not in self.places:
            place = self._place(self.parents[node]).after(self.tokens[node])
            assert place is not None  # the constraint expected it
            self.places[node] = place
        return self.places[node]
