"""Constraints: which tokens may come next.

A `Constraint` holds options only. The `Matcher` that `start` returns follows one output and says what may follow it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from tokloom.decode.draft_tree import DraftTree
from tokloom.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

    from tokloom.tokenize.vocabulary import Vocabulary


class Matcher(ABC):
    """Follows one output under a constraint.

    Masks are bitmasks in the layout of xgrammar and llguidance: int32, ceil(vocabulary / 32)
    words, bit i % 32 of word i // 32 set when token i may come next.
    """

    @abstractmethod
    def mask(self, out: np.ndarray) -> None:
        """Writes the mask of the next token into `out`, int32 (ceil(vocabulary / 32),).

        End-of-sequence tokens are set where the output so far is complete."""

    @abstractmethod
    def accept(self, token: int) -> None:
        """Advances by one token. Raises ArgumentError, unchanged, if the mask forbids it."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Takes the last `count` accepted tokens back. Raises ArgumentError if there are fewer."""

    @abstractmethod
    def fork(self) -> Matcher:
        """An independent matcher in the same state."""

    @abstractmethod
    def forced(self) -> list[int]:
        """Tokens that must come next whatever the model says; empty if there is a choice."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """The output so far satisfies the constraint, so that it may end here."""

    @property
    def is_stuck(self) -> bool:
        """No token may come next, though the output is not complete. A constraint that leads into no dead end need
        not say more."""
        return False

    def after(self, token: int) -> Matcher | None:
        """An independent matcher after one more token; None if the mask forbids it."""
        forked = self.fork()
        try:
            forked.accept(token)
        except ArgumentError:
            return None
        return forked

    def expected(self) -> DraftTree:
        """What the constraint makes likely, as far as it can say at next to no cost; chance 1 only for what `forced`
        has."""
        forced = self.forced()
        return DraftTree.chain(forced, [1.0] * len(forced))


class Constraint(ABC):
    """Interface of constraints on the output."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def start(self, vocabulary: Vocabulary) -> Matcher:
        """A matcher at the start of the output. Raises ArgumentError if this vocabulary can't spell
        any valid output."""

    def parse(self, text: str) -> Any:
        """What a complete output stands for; None if it is text and nothing more."""
        return None
