"""Decides how much of a drafter's tree to verify, so that speculation pays on the machine at hand."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokloom.atomic import write_atomic
from tokloom.decode.stage import Drafter, DraftRequest, DraftState, DraftTree, Matcher, Prediction, Verified
from tokloom.engine.cost_curve import WIDTHS, CostCurve, load_or_measure
from tokloom.errors import ArgumentError, DocumentError
from tokloom.registry import spec_of

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

_OWNER = "owner"
"""Name under which a saved state says whose it is."""


class Pace:
    """Whether drafting pays, by the clock: tokens a second where the drafter was asked beside those of plain passes.

    The cost curve is a forecast; what the drafter itself takes, also where it has nothing to propose, a busy
    machine and a text that it can't guess are not in it. When asking turns out slower, drafting rests for some passes,
    twice as many each time, and is then tried again for a few.
    """

    BLEND = 0.05
    PLAIN = 3
    """Passes without drafts that are timed first."""
    TRIAL = 24
    """Passes with a drafter before a judgement."""
    LEAST = 0.98
    """Gain below which drafting rests: a drafter that costs next to nothing may go on waiting for its chance."""
    REST = 16
    MOST_REST = 128

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = 0.0
        self._asking: float | None = None  # seconds that the drafter took
        self.plain = 0.0
        """Seconds of a pass without drafts, 0 until known."""
        self.gain = 1.0
        """Tokens a second with drafts over those without."""
        self._timed = self._tried = self._resting = 0
        self._rest = self.REST

    @property
    def open(self) -> bool:
        """Drafts may be made for the next pass."""
        return self._timed >= self.PLAIN and self._resting == 0

    def begin(self) -> None:
        """A pass begins, its drafting included."""
        self._start, self._asking = self._clock(), None

    def asked(self) -> None:
        """The drafter has answered."""
        self._asking = self._clock() - self._start

    def end(self, drafted: bool, tokens: int) -> None:
        """It has ended and gave so many tokens; drafted: the drafter proposed some of them."""
        if self._start == 0:  # a pass that nothing was proposed for, such as one of forced tokens
            return
        seconds, self._start = self._clock() - self._start, 0.0
        if not drafted:
            bare = seconds - (self._asking or 0.0)
            self._timed += 1
            slow = self.plain > 0 and bare > 3 * self.plain  # the machine was busy elsewhere
            if not slow:
                self.plain = bare if self._timed == 1 else self.plain + self.BLEND * (bare - self.plain)
        if self._asking is None:
            self._resting = max(0, self._resting - 1)
            return
        self._tried += 1
        pace = min(tokens * self.plain / max(seconds, 1e-9), 8.0)
        self.gain += max(self.BLEND, 1 / self._tried) * (pace - self.gain)
        if self._tried < self.TRIAL:
            return
        if self.gain < self.LEAST:
            self._resting, self._tried = self._rest, 0
            self._rest = min(2 * self._rest, self.MOST_REST)
        elif self.gain > 1.1:
            self._rest = self.REST


class Drafting:
    """A drafter at work in one engine, for all its requests.

    A pass of n nodes is expected to give 1 + trust * (sum of their chances) tokens at the cost of a plain pass and n
    more rows; the n with most tokens a second is taken, no node at all if that is not clearly better than plain
    decoding. Rows that the pass has anyway, of tokens that a constraint made certain, count on neither side.
    `trust` follows how many of the expected tokens were accepted, and `Pace` how long passes really take; while nothing
    is drafted, trust drifts back to 1, so that drafting is tried again now and then.
    """

    MARGIN = 1.05
    RATE = 0.05
    DRIFT = 0.01

    def __init__(self, drafter: Drafter, model: LanguageModel) -> None:
        self.drafter, self.model = drafter, model
        self.state: DraftState = drafter.start(model)
        self.trust = 1.0
        self.pace = Pace()
        self._curve: CostCurve | None = None

    @property
    def curve(self) -> CostCurve:
        """Measured on first use, which takes some seconds once a machine."""
        if self._curve is None:
            self._curve = load_or_measure(self.model)
        return self._curve

    def propose(
        self,
        tokens: Sequence[int],
        depth: int,
        prediction: Prediction,
        rows: int = 1,
        matcher: Matcher | None = None,
        *,
        timed: bool = True,
    ) -> DraftTree:
        """The part of the drafter's tree, of at most `depth` levels, that is worth its rows in a pass.

        rows: that the pass has anyway. matcher: forbids nodes; these cost no row.
        timed: the pass is this request's alone, so that the clock can say whether drafting pays; else only the forecast
            does.
        """
        alone, timed = timed, timed and rows == 1
        if timed:
            self.pace.begin()
        most = WIDTHS[-1] - rows
        if depth < 1 or most < 1 or (alone and not self.pace.open):
            return DraftTree()
        # without its last node the best tree would give more a second, if that node's chance were less than its cost
        least = self.curve.cheapest / self.trust
        tree = self.state.propose(DraftRequest(tokens, most, prediction, least))
        if timed:
            self.pace.asked()
        if matcher is not None and len(tree):
            tree = _permitted(tree, matcher, prediction.vocabulary.size)
        tree = tree.top(most, depth)
        gains = accumulate(sorted(tree.chances, reverse=True))
        cost = self.curve.table
        best, size = self.MARGIN, 0
        for nodes, gain in enumerate(gains, 1):
            rate = (1 + self.trust * gain) / (1 + cost[rows + nodes] - cost[rows])
            if rate > best:
                best, size = rate, nodes
        return tree.top(size, depth) if size < len(tree) else tree

    def learn(self, seen: Verified, tree: DraftTree) -> None:
        """Tells the drafter what the model said, and notes how good the estimate was. tree: what was verified."""
        self.state.observe(seen)
        if len(tree):
            self.state.judge(tree, seen.path)
            expected, accepted = sum(tree.chances), len(seen.path) - 1
            self.trust += self.RATE * (accepted - self.trust * expected) / max(expected, 1.0)
            self.trust = min(max(self.trust, 0.05), 2.0)
        else:
            self.trust += self.DRIFT * (1 - self.trust)
        self.pace.end(len(tree) > 0, len(seen.path))

    # --- what the drafter learned, in a file

    def save(self, path: str | Path) -> None:
        """Writes the drafter's state, whole or not at all."""
        written = io.BytesIO()
        arrays: dict[str, Any] = {_OWNER: np.array(self._owner), **self.state.arrays()}
        np.savez(written, **arrays)
        write_atomic(path, written.getvalue())

    def load(self, path: str | Path) -> None:
        """Takes over a state that `save` wrote.

        Raises DocumentError if the file is none, ArgumentError if it is another drafter's or another model's."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            owner = str(arrays.pop(_OWNER))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DocumentError(str(path), f"is not a drafter's state ({error or type(error).__name__})") from None
        if owner != self._owner:
            raise ArgumentError(
                "drafter_state", str(path), f"a state of {self._owner}, not of {owner}",
                "Give each drafter and model a file of its own.",
            )  # fmt: skip
        self.state.restore(arrays)

    @property
    def _owner(self) -> str:
        return f"{spec_of(self.drafter)} on {self.model.name} ({self.model.vocabulary.size} tokens)"


def _permitted(tree: DraftTree, matcher: Matcher, vocabulary: int) -> DraftTree:
    """The nodes that the constraint allows."""
    masks = np.zeros((len(tree), (vocabulary + 31) // 32), dtype=np.int32)
    matcher.tree_masks(tree.tokens, tree.parents, masks)
    return tree.only(np.flatnonzero(masks.any(axis=1)).tolist())
