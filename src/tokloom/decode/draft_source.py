"""Where drafters that search a tree of tokens take their distributions from.

A `DraftSource` is an option object, like a drafter; `start` gives the state that one engine's requests share, and
`open` a `Walk` along the tree that is drafted for one request. `dyspec` and `aded` build trees over any source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.decode.drafter import DraftRequest, Verified
    from tokloom.decode.prediction import Prediction
    from tokloom.models.language_model import LanguageModel


class Followers(NamedTuple):
    """The likeliest next tokens (count) int32, the likeliest first, and their chances (count) float64."""

    tokens: NDArray[np.int32]
    probabilities: NDArray[np.float64]


UNKNOWN = Followers(np.zeros(0, dtype=np.int32), np.zeros(0))
"""Nothing is known of what follows."""


class Walk(ABC):
    """Next-token distributions after the text and along a tree below it. The root, the text's end, is node 0."""

    @abstractmethod
    def root(self) -> Followers:
        """What may follow the text."""

    @abstractmethod
    def expand(self, nodes: Sequence[tuple[int, int]]) -> list[Followers]:
        """Adds nodes, (parent, token) each, numbered on from 1; returns what may follow each.

        One call may cost a pass of a model, whatever the number of nodes."""


class SourceState(ABC):
    """A source at work; as `DraftState`, without state that is tied to one request."""

    def check_tree(self, prediction: Prediction) -> None:  # noqa: B027 - most serve any
        """Raises CompositionError if no tree can be walked for such a prediction."""

    def read(self, tokens: Sequence[int], known: int = 0) -> None:  # noqa: B027 - a source may have no use for it
        """As `DraftState.read`."""

    @abstractmethod
    def open(self, request: DraftRequest) -> Walk:
        """A walk that begins at the end of the request's text."""

    def observe(self, seen: Verified) -> None:  # noqa: B027 - as above
        """Learns from a pass of the prediction."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As `DraftState.arrays`."""
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - as above
        """As `DraftState.restore`."""


class DraftSource(ABC):
    """Interface of distributions to draft from."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("logits", "tokens")
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def start(self, model: LanguageModel) -> SourceState:
        """A fresh state for drafts for this model. Raises CompositionError if it has another vocabulary."""
