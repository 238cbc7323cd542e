"""Decides how much of a drafter's tree to verify, so that speculation pays on the machine at hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from tokloom.decode.stage import Drafter, DraftState, DraftTree
from tokloom.engine.cost_curve import WIDTHS, CostCurve, load_or_measure

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


class Drafting:
    """A drafter at work in one engine, for all its requests.

    A pass of n nodes is expected to give 1 + trust * (sum of their chances) tokens at the cost of
    n + 1 rows; the n with most tokens a second is taken, no node at all if that is not clearly
    better than plain decoding. `trust` follows how many of the expected tokens were accepted; while
    nothing is drafted it drifts back to 1, so that drafting is tried again now and then.
    """

    MARGIN = 1.05
    RATE = 0.05
    DRIFT = 0.01

    def __init__(self, drafter: Drafter, model: LanguageModel) -> None:
        self.drafter, self.model = drafter, model
        self.state: DraftState = drafter.start(model.vocabulary, model.device)
        self.trust = 1.0
        self._curve: CostCurve | None = None

    @property
    def curve(self) -> CostCurve:
        """Measured on first use, which takes some seconds once a machine."""
        if self._curve is None:
            self._curve = load_or_measure(self.model)
        return self._curve

    def propose(self, tokens: Sequence[int], depth: int) -> DraftTree:
        """The part of the drafter's tree, of at most `depth` levels, that is worth a pass."""
        if depth < 1:
            return DraftTree()
        tree = self.state.propose(tokens, WIDTHS[-1] - 1).top(WIDTHS[-1] - 1, depth)
        gains = list(accumulate(sorted(tree.chances, reverse=True)))
        best, size = self.MARGIN, 0
        for rows in WIDTHS[1:]:
            nodes = min(rows - 1, len(tree))
            if nodes < 1:
                break
            rate = (1 + self.trust * gains[nodes - 1]) / self.curve.relative(nodes + 1)
            if rate > best:
                best, size = rate, nodes
        return tree.top(size, depth) if size < len(tree) else tree

    def learn(self, rows: Sequence[int], logits: torch.Tensor, tree: DraftTree, path: Sequence[int]) -> None:
        """Tells the drafter what the model said, and notes how good the estimate was.

        Arguments as of `DraftState.observe`; `tree` is what was verified."""
        self.state.observe(rows, logits, path)
        accepted = len(path) - 1
        if len(tree):
            expected = sum(tree.chances)
            self.trust += self.RATE * (accepted - self.trust * expected) / max(expected, 1.0)
            self.trust = min(max(self.trust, 0.05), 2.0)
        else:
            self.trust += self.DRIFT * (1 - self.trust)
