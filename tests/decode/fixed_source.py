"""A source whose distributions are made up: any token path has random followers, the same whenever it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokloom.decode.draft_source import Followers, SourceState, Walk
from tokloom.decode.drafter import DraftRequest


@dataclass(frozen=True)
class FixedSource:
    """seed: of the made-up distributions. width: followers of each path."""

    seed: int = 0
    width: int = 3

    def followers(self, path: Sequence[int]) -> Followers:
        random = np.random.default_rng([self.seed, *path])
        probabilities = np.sort(random.dirichlet(np.ones(self.width + 1)))[::-1][: self.width]
        return Followers(random.permutation(9)[: self.width].astype(np.int32), probabilities)


class FixedState(SourceState):
    """Counts how often it was asked."""

    def __init__(self, options: FixedSource) -> None:
        self.options = options
        self.calls = 0

    def open(self, request: DraftRequest) -> Walk:
        return FixedWalk(self)


class FixedWalk(Walk):
    def __init__(self, state: FixedState) -> None:
        self.state = state
        self.paths: list[tuple[int, ...]] = [()]

    def root(self) -> Followers:
        self.state.calls += 1
        return self.state.options.followers(())

    def expand(self, nodes: Sequence[tuple[int, int]]) -> list[Followers]:
        self.state.calls += 1
        fresh = [(*self.paths[parent], token) for parent, token in nodes]
        self.paths += fresh
        return [self.state.options.followers(path) for path in fresh]
