"""Decides how much of a drafter's tree to verify, so that speculation pays on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokloom.artifacts import Artifact
from tokloom.decode.constraint import Matcher
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.prediction import Prediction
from tokloom.engine.prediction import PlainPrediction
from tokloom.engine.speculation.cost_curve import LiveCurve, load_or_measure
from tokloom.engine.speculation.draft_gate import DraftGate
from tokloom.engine.speculation.grafting import graft
from tokloom.engine.speculation.probability_correction import ProbabilityCorrection, Proposal, RequestTracker
from tokloom.registry import spec_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.models.language_model import LanguageModel

STATE = Artifact(
    "drafter state",
    version=2,
    argument="drafter_state",
    remedy="Give each drafter and model its own file, and drafts of bytes and of tokens. Remove a damaged or old file.",
)
HOPE = 0.6
"""Drafters are asked for nodes of this share of the chance that pays: it may turn out to be higher than they think."""


class Drafting:
    """A drafter at work in one engine, for all its requests.

    A node is verified if it is expected to give more than its row takes: of the drafter's tree, the n likeliest nodes
    are taken that have the highest value

        sum of their chances - price * (time of a pass with n more rows - time of one without)

    times in passes of one row. Probabilities are what such nodes turned out to have (`ProbabilityCorrection`), times
    are what passes took (`LiveCurve`), and the price is the number of tokens that the same time yields otherwise. Rows
    of forced tokens count on neither side, as the pass has them anyway. `RequestTracker.reach` bounds how deep guesses
    go. `DraftGate` says whether the drafter is worth its own time.
    """

    MARGIN = 0.03
    """Least value of drafts that are verified."""
    CURIOUS = 96
    """Passes without drafts after which some are verified that would pay if rows cost half: costs are then known."""
    RATE = 0.03
    """How fast `gain` follows the text."""

    def __init__(
        self, drafter: Drafter, model: LanguageModel, unit: str = "tokens", curve: LiveCurve | None = None
    ) -> None:
        """curve: what the model's passes cost; None is what they cost on this machine."""
        self.drafter, self.model, self.unit = drafter, model, unit
        self.state: DraftState = drafter.start(model)
        self.acceptance = ProbabilityCorrection()
        self.pace = DraftGate()
        self.gain = 1.0
        """Tokens that a pass gave of late, for each pass of one row in whose time it was done."""
        self._undrafted = 0
        self._curve = curve
        self._curves: dict[type[Prediction], LiveCurve] = {}

    @property
    def curve(self) -> LiveCurve:
        """Of the model's own passes. If not given, measured on first use, which takes some seconds once a machine."""
        if self._curve is None:
            self._curve = load_or_measure(self.model)
        return self._curve

    def curve_of(self, prediction: Prediction) -> LiveCurve:
        """Of this kind of prediction: it may do more in a pass than the model alone, which shows in use."""
        kind = type(prediction)
        if kind not in self._curves:
            own = kind is PlainPrediction and prediction.host.policy.plain
            self._curves[kind] = self.curve if own else self.curve.fork()
        return self._curves[kind]

    def follow(self, tokens: Sequence[int]) -> RequestTracker:
        """A request begins with these tokens."""
        following = RequestTracker(self.pace.worth)
        self._tell(tokens, following)
        return following

    def propose(
        self,
        tokens: Sequence[int],
        depth: int,
        prediction: Prediction,
        rows: int = 1,
        matcher: Matcher | None = None,
        following: RequestTracker | None = None,
        beside: int = 0,
    ) -> DraftTree:
        """The part of the drafter's tree, of at most `depth` levels, that is worth its rows in a pass.

        rows: that the pass has anyway for this request; beside: for others. matcher: forbids nodes; these cost no row.
        following: the request's; None if its text may be taken back, then only what is verified is judged.
        """
        curve = self.curve_of(prediction)
        maximum = len(curve.table) - 1 - rows - beside
        if depth < 1 or maximum < 1:
            return DraftTree()
        price = max(1.0, self.gain) * max(1.0, (1 + beside) / curve.table[1 + beside])
        minimum = HOPE * price * curve.cheapest
        reach = depth if following is None else min(depth, following.reach)
        start = time.perf_counter()
        tree = DraftTree()
        asked = following is None or self.pace.open(following.worth)
        if asked:
            if following is not None:
                self._tell(tokens, following)
            tree = self.state.propose(DraftRequest(tokens, maximum, prediction, minimum, reach))
        spent = time.perf_counter() - start
        expected: tuple[bool, ...] = ()
        if matcher is not None:
            grafted = graft(tree, matcher, minimum, prediction.eos_ids)
            tree, expected = grafted.tree, grafted.expected
        proposal = self.acceptance.propose(tree, following.factor if following is not None else 1.0, expected)
        nodes, value = self._choose(proposal, depth, reach, price, rows + beside, maximum, curve.table)
        if following is not None:
            following.guesses = [proposal.guesses[node] for node in nodes]
            if len(tree):
                following.add(proposal, len(tokens))
            if asked:
                # what the constraint expects anyway is not the drafter's doing
                alone = without_drafter(proposal, expected) if expected else []
                worth = value - best(alone, price, rows + beside, curve.table)[1]
                self.pace.asked(spent, worth)
                following.asked(worth)
        return tree.only(nodes) if len(nodes) < len(tree) else tree

    def _choose(
        self, proposal: Proposal, depth: int, reach: int, price: float, rows: int, maximum: int, table: Sequence[float]
    ) -> tuple[list[int], float]:
        """The nodes that are worth verifying, and their value."""
        probabilities, depths, guesses = proposal.probabilities, proposal.depths, proposal.guesses
        order = [i for i in range(len(probabilities)) if depths[i] <= depth and guesses[i] <= reach]
        order.sort(key=probabilities.__getitem__, reverse=True)  # stable: parents stay before their children
        del order[maximum:]
        ordered = [probabilities[node] for node in order]
        size, value = best(ordered, price, rows, table)
        if value < self.MARGIN:
            size = 0
            if self._undrafted >= self.CURIOUS:
                size, hope = best(ordered, price / 2, rows, table)
                size = size if hope >= self.MARGIN else 0
        self._undrafted = 0 if size else self._undrafted + 1
        return sorted(order[:size]), value

    def learn(
        self, seen: Verified, tree: DraftTree, text: Sequence[int], following: RequestTracker | None = None
    ) -> None:
        """Tells the drafter what the model said. tree: what was verified. text: as it is now."""
        start = time.perf_counter()
        if following is None:
            self.state.observe(seen)
            if tree.marks:
                outcomes = ((tree.marks[node], hit) for node, hit in tree.outcomes(seen.path))
                self.state.judge([(mark, hit) for mark, hit in outcomes if mark is not None])
            return
        following.verified(seen.path)
        if self.pace.pays(following.worth) or self.pace.learns:
            self.state.observe(seen)
            following.told = len(text)
        marks: list[tuple[Any, bool]] = []
        for proposal, node, hit in following.outcomes(text):
            self.acceptance.record(proposal, node, hit)
            following.record(proposal, node, hit)
            if proposal.tree.marks and proposal.tree.marks[node] is not None:
                marks.append((proposal.tree.marks[node], hit))
        if marks:
            self.state.judge(marks)
        self.pace.taught(time.perf_counter() - start)

    def passed(self, prediction: Prediction, rows: int, tokens: int, seconds: float) -> None:
        """A pass that one request had for itself took so long, without the drafter's time, and gave so many tokens."""
        curve = self.curve_of(prediction)
        curve.note(rows, seconds)
        if rows == 1:
            self.pace.passed(seconds)
        if rows < len(curve.table):
            self.gain += self.RATE * (tokens / curve.table[rows] - self.gain)

    def commit(self) -> None:
        """A request has ended: what was learned of costs is kept."""
        if self._curve is not None:
            self._curve.save()

    def _tell(self, tokens: Sequence[int], following: RequestTracker) -> None:
        """Shows the drafter what it was told nothing of: the prompt, certain tokens, and what came while it rested."""
        if following.told < len(tokens) - 1:
            self.state.read(tokens, following.told)
        following.told = len(tokens)

    # --- what the drafter learned, in a file

    def save(self, path: str | Path) -> None:
        """Writes the drafter's state, whole or not at all. Raises ArtifactError if the file can't be written."""
        STATE.save(path, self.state.arrays(), self._owner)

    def load(self, path: str | Path) -> None:
        """Takes over a state that `save` wrote.

        Raises ArtifactError if the file is none or damaged, or if it is of another drafter or model, or of bytes where
        tokens are drafted."""
        arrays = STATE.load(path, self._owner)
        try:
            if _forms(arrays) != _forms(self.state.arrays()):
                raise ValueError("its arrays are not those that this drafter writes")
            self.state.restore(arrays)
        except (ValueError, IndexError, TypeError) as error:
            raise STATE.damaged(path, error) from None

    @property
    def _owner(self) -> dict[str, object]:
        owner: dict[str, object] = {"drafter": spec_of(self.drafter), "model": self.model.name, "drafts of": self.unit}
        return {**owner, "vocabulary": self.model.vocabulary.size} if self.unit == "tokens" else owner


def _forms(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, int]]:
    """The kind of numbers and of how many dimensions each array is."""
    return {name: (array.dtype.kind, array.ndim) for name, array in arrays.items()}


def best(probabilities: Sequence[float], price: float, rows: int, table: Sequence[float]) -> tuple[int, float]:
    """How many of the nodes, the likeliest first, are worth most beside so many rows, and what they are worth."""
    base, gains = table[rows], 0.0
    size, value = 0, 0.0
    for nodes, probability in enumerate(probabilities[: len(table) - 1 - rows], 1):
        gains += probability
        worth = gains - price * (table[rows + nodes] - base)
        if worth > value:
            size, value = nodes, worth
    return size, value


def without_drafter(proposal: Proposal, expected: Sequence[bool]) -> list[float]:
    """The chances of the nodes that are there because the constraint expects them after the text as it is, sorted."""
    alone: list[bool] = []
    for parent, is_expected in zip(proposal.tree.parents, expected, strict=True):
        alone.append(is_expected and (parent < 0 or alone[parent]))
    return sorted(
        (probability for probability, kept in zip(proposal.probabilities, alone, strict=True) if kept), reverse=True
    )
