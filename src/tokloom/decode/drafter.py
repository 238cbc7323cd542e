"""Drafters: which tokens may come next, as a tree that one pass of the prediction verifies.

A `Drafter` holds options only. What it learns lies in the `DraftState` that `start` returns, which may serve many
requests. Drafts change the speed and never the text; see `engine/loop.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tokloom.decode.draft_tree import DraftTree

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tokloom.decode.prediction import Prediction
    from tokloom.models.language_model import LanguageModel


@dataclass(frozen=True)
class DraftRequest:
    """What a drafter is asked.

    tokens: prompt and output so far, in the prediction's vocabulary.
    limit: the most nodes.
    minimum: nodes with a lower chance never pay; a drafter may leave them out.
    prediction: of this request; a drafter that speculates with the model itself runs passes of its own over the
        request's store through `prediction.host`, and takes them back.
    depth: of guesses that may be verified this time. A drafter whose levels each cost a pass need not go deeper; others
        may, and learn of it whether they were right.
    """

    tokens: Sequence[int]
    limit: int
    prediction: Prediction
    minimum: float = 0.0
    depth: int = 2**31


@dataclass(frozen=True)
class Verified:
    """A pass that is over: what was asked, and what the model said.

    text: prompt and output before it, its last token included.
    tokens: the rows, that last token first, then the tree's nodes, accepted or not.
    parents: the row above each, -1 for the first.
    logits: (rows, vocabulary), what the prediction said after each.
    path: the rows that are part of the text now, in its order; begins with row 0.
    """

    text: Sequence[int]
    tokens: Sequence[int]
    parents: Sequence[int]
    logits: torch.Tensor
    path: Sequence[int]


class DraftState(ABC):
    """A drafter at work. It may serve many requests, one after the other or interleaved.

    No method may keep state that is tied to one request: they get all of it as arguments.
    """

    def check(self, prediction: Prediction) -> None:  # noqa: B027 - most drafters draft for any
        """Raises CompositionError if it can't draft for such a prediction; before its prompt is read."""

    def read(self, tokens: Sequence[int], known: int = 0) -> None:  # noqa: B027 - a drafter may have no use for it
        """Sees the prompt of a request before its output is drafted, and later whatever `observe` did not show.

        tokens: prompt and output so far. known: how many of them it has seen."""

    @abstractmethod
    def propose(self, request: DraftRequest) -> DraftTree:
        """A tree of at most `request.limit` nodes to follow `request.tokens`."""

    @abstractmethod
    def observe(self, seen: Verified) -> None:
        """Learns from a pass."""

    def judge(self, outcomes: Sequence[tuple[Any, bool]]) -> None:  # noqa: B027 - as above
        """Is told of nodes that it proposed, by their marks, whether the text went on with them, their parents having
        been right. Also of nodes that were not verified; after `observe`."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it learned, for a file (`Engine.save_drafter_state`); empty if there is nothing to keep."""
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - as above
        """Takes over what `arrays` of another state with the same options and model gave. Raises ValueError, IndexError
        or TypeError if they can't be that."""


class Drafter(ABC):
    """Interface of drafting methods."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    published: ClassVar[float | None] = None
    """Tokens a pass that others measured on Spec-Bench with Vicuna-7B, greedy; None if not known."""
    needs: ClassVar[tuple[str, ...]] = ("logits", "tokens")
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def start(self, model: LanguageModel) -> DraftState:
        """A fresh state for this model."""
