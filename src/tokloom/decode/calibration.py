"""How often a drafter's guesses of each kind were right lately."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tokloom.decode.stage import DraftTree

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Calibration:
    """Rates of kinds 0, 1, ..., the marks of a drafter's nodes, each with a first guess that a few trials outweigh."""

    MEMORY = 128
    """Counts are halved beyond so many trials, so that the rates follow the text."""
    PRIOR = 4.0
    """Trials that a first guess is worth."""

    def __init__(self, first: Iterable[float]) -> None:
        rates = np.array(list(first))
        self.counts: NDArray[np.float64] = np.stack([rates * self.PRIOR, np.full_like(rates, self.PRIOR)])
        """Hits and trials, (2, kinds)."""

    def rate(self, kind: int) -> float:
        """Chance of a guess of this kind, given that its parent was right."""
        return float(self.counts[0, kind] / self.counts[1, kind])

    def record(self, tree: DraftTree, path: Sequence[int]) -> None:
        """Takes over the outcomes of nodes that are marked with their kind; negative ones are left out."""
        for node, hit in tree.outcomes(path):
            self.add(tree.marks[node], hit)

    def add(self, kind: int, hit: bool) -> None:
        if kind < 0:
            return
        self.counts[:, kind] += (hit, 1)
        if self.counts[1, kind] > self.MEMORY:
            self.counts[:, kind] /= 2
