"""Predictions: what the distribution over next tokens is. Without a `Predictor` it is the model's own.

A `Predictor` holds options only. What changes during a request lies in the `Prediction` that `start` returns. The loop
in `engine/loop.py` accepts a drafted token only if the sampler, given the prediction's own logits at that node (masked
by the constraint), draws that very token. So drafts change the speed and never the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tokloom.errors import CompositionError

if TYPE_CHECKING:
    import torch

    from tokloom.attention.policy import AttentionPolicy
    from tokloom.engine.request_context import RequestContext
    from tokloom.kv.step import Step
    from tokloom.tokenize.vocabulary import Vocabulary

GIVES = frozenset({"logits", "tokens", "hidden_states"})
"""What a drafter or predictor may list in `needs`."""
REWINDING = "rewinding"
"""A further need: a KV store whose last tokens can be taken back, which not every attention policy allows."""


def gives(attention: AttentionPolicy) -> frozenset[str]:
    """What drafters and predictors get under this policy."""
    return GIVES | ({REWINDING} if attention.rewinds else set())


class Prediction(ABC):
    """The next-token distribution during one request, over a vocabulary that may be another than the model's.

    Order of the calls: `prefill` once; then, pass by pass, `rows` and `accept`.
    """

    reads_opening: ClassVar[bool] = False
    """It reads a prompt and the output's beginning alike, so that `prefill` may be given both."""

    def __init__(self, host: RequestContext) -> None:
        self.host = host
        self.counts: dict[str, int] = {}
        """Figures of its own for the ledger, by name."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the tokens that it predicts; the model's own unless overridden."""
        return self.host.model.vocabulary

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens of `vocabulary` that end a text."""
        return self.vocabulary.eos_ids

    @property
    def window(self) -> int:
        """The most tokens of `vocabulary`, prompt included."""
        return self.host.model.window

    def prompt(self, tokens: Sequence[int]) -> list[int]:
        """The prompt, given in the model's tokens, in those of `vocabulary`."""
        return list(tokens)

    def encode(self, text: str) -> list[int]:
        """A text that follows the prompt in tokens of `vocabulary`, none added."""
        return self.host.model.encode(text)

    @abstractmethod
    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        """Reads the prompt, given in the model's tokens; returns the logits (vocabulary,) after it.

        progress: to be called after each pass with the number of tokens read so far."""

    @abstractmethod
    def rows(self, tokens: Sequence[int], step: Step) -> torch.Tensor:
        """Logits (rows, vocabulary) after each row: what was not read yet of the text, and a draft tree below it.

        step: who descends from whom, positions counted in tokens of `vocabulary`. Its first `skipped` rows are left
            out of what is returned: nobody asks what follows them."""

    @staticmethod
    def rows_together(asked: Sequence[tuple[Prediction, Sequence[int], Step]]) -> list[torch.Tensor]:
        """`rows` of several requests of one engine, in one pass where that is possible."""
        return [prediction.rows(tokens, step) for prediction, tokens, step in asked]

    @abstractmethod
    def accept(self, path: list[int]) -> None:
        """Ends a pass: these of its rows, in the order of the text and from row 0 on, became part of it.

        Called after every call of `rows`, also where there was no tree."""

    def fork(self) -> Prediction:
        """The same text, independent from now on. Raises CompositionError where that is not possible."""
        raise CompositionError(type(self).__name__, "search", "it can't go on from one text in several ways")

    def max_draft_tokens(self) -> int:
        """How many tokens the next pass may add; 1 allows no drafts."""
        return self.host.max_draft_tokens()


class Predictor(ABC):
    """Interface of methods that change what the next-token distribution is."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("logits",)
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @property
    def unit(self) -> str:
        """What is predicted: the model's tokens, or bytes. What a drafter learned of one is nothing to the other."""
        return "tokens"

    @abstractmethod
    def start(self, host: RequestContext) -> Prediction:
        """A fresh prediction for one request. Raises CompositionError if the host's model can't take it."""
