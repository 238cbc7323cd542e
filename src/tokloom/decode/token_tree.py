"""A draft tree that grows node by node, in which equal children of one parent are one node."""

from __future__ import annotations

from tokloom.decode.draft_tree import DraftTree


class TokenTree:
    """Collects up to `limit` nodes for a `DraftTree`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.probabilities: list[float] = []
        self.marks: list[int] = []
        self._places: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, token: int, parent: int, probability: float, mark: int = -1) -> int:
        """The node of this token below `parent`, new if there was none; else it keeps its chance and mark.

        Returns -2 when the tree is full; children of -2 are dropped too. The chance is cut to the parent's.
        """
        if parent == -2:
            return -2
        place = self._places.get((parent, token))
        if place is None:
            if len(self.tokens) >= self.limit:
                return -2
            place = self._places[parent, token] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(parent)
            self.probabilities.append(min(probability, self.probabilities[parent]) if parent >= 0 else probability)
            self.marks.append(mark)
        return place

    def build(self) -> DraftTree:
        return DraftTree(tuple(self.tokens), tuple(self.parents), tuple(self.probabilities), tuple(self.marks))
