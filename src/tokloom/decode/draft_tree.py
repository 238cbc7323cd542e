"""What a drafter proposes: tokens in a tree below the text, with their chances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DraftTree:
    """Drafted tokens with their parents, in an order in which parents come first.

    tokens: token ids, one a node; the root (the last accepted token) is not among them. Children of
        one parent differ.
    parents: for each node the index of its parent in `tokens`, -1 for a child of the root.
    probabilities: the drafter's estimate that the node will be accepted; never above its parent's. The
        loop verifies as many of the likeliest nodes as pay on the machine at hand.
    marks: what the drafter wants to know of each node when `DraftState.judge` tells it what became of it; may be
        empty.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    marks: tuple[Any, ...] = ()

    @classmethod
    def chain(cls, tokens: Sequence[int], probabilities: Sequence[float], marks: Sequence[Any] = ()) -> DraftTree:
        """A tree without branches."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(probabilities), tuple(marks))

    def __len__(self) -> int:
        return len(self.tokens)

    def depths(self) -> list[int]:
        """Depth of each node; 1 for a child of the root."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths

    def top(self, size: int, depth: int) -> DraftTree:
        """The `size` likeliest nodes of at most `depth` levels, as a tree."""
        depths = self.depths()
        order = sorted((i for i in range(len(self)) if depths[i] <= depth), key=lambda i: (-self.probabilities[i], i))
        return self.only(sorted(order[:size]))

    def only(self, nodes: Sequence[int]) -> DraftTree:
        """These nodes as a tree; ascending, the parent of each among them."""
        place = {old: new for new, old in enumerate(nodes)} | {-1: -1}
        return DraftTree(
            tuple(self.tokens[i] for i in nodes),
            tuple(place[self.parents[i]] for i in nodes),
            tuple(self.probabilities[i] for i in nodes),
            tuple(self.marks[i] for i in nodes) if self.marks else (),
        )

    def below(self, chain: Sequence[int]) -> DraftTree:
        """This tree at the end of a chain of tokens that are certain."""
        size = len(chain)
        return DraftTree(
            (*chain, *self.tokens),
            (*range(-1, size - 1), *(size + parent if parent >= 0 else size - 1 for parent in self.parents)),
            (*((1.0,) * size), *self.probabilities),
            (*((None,) * size), *self.marks) if self.marks else (),
        )

    def outcomes(self, path: Sequence[int]) -> Iterator[tuple[int, bool]]:
        """The nodes that the model decided on, and whether it took them.

        path: as of `Verified`: row 0 for the root, i + 1 for node i."""
        taken = set(path)
        for node, parent in enumerate(self.parents):
            if parent + 1 in taken:
                yield node, node + 1 in taken
