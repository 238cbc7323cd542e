"""How often a drafter's guesses of each kind were right lately."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HitRates:
    """Rates of kinds 0, 1, ..., the marks of a drafter's nodes, each with a first guess that a few trials outweigh."""

    MEMORY = 128
    """Counts are halved beyond so many trials, so that the rates follow the text."""
    PRIOR = 4.0
    """Trials that a first guess is worth."""

    def __init__(self, first: Iterable[float]) -> None:
        rates = list(first)
        self.hits = [rate * self.PRIOR for rate in rates]
        self.trials = [self.PRIOR] * len(rates)

    @property
    def counts(self) -> NDArray[np.float64]:
        """Hits and trials, (2, kinds)."""
        return np.array([self.hits, self.trials])

    @counts.setter
    def counts(self, counts: NDArray[np.float64]) -> None:
        if counts.shape != (2, len(self.hits)):
            raise ValueError(f"rates of {counts.shape[-1]} kinds of nodes instead of {len(self.hits)}")
        self.hits, self.trials = counts[0].tolist(), counts[1].tolist()

    def rate(self, kind: int) -> float:
        """Chance of a guess of this kind, given that its parent was right."""
        return self.hits[kind] / self.trials[kind]

    def record(self, outcomes: Iterable[tuple[int, bool]]) -> None:
        """Takes over what became of nodes that are marked with their kind; negative ones are left out."""
        for kind, hit in outcomes:
            self.add(kind, hit)

    def add(self, kind: int, hit: bool) -> None:
        if kind < 0:
            return
        self.hits[kind] += hit
        self.trials[kind] += 1
        if self.trials[kind] > self.MEMORY:
            self.hits[kind] /= 2
            self.trials[kind] /= 2
