"""Searches: which of several outputs is given, and the verifiers that judge them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tokloom.engine.branch import Branch
    from tokloom.models.language_model import LanguageModel


@dataclass(frozen=True)
class Candidate:
    """An output, whole or so far, as a verifier sees it.

    prompt: the tokens before it, in the model's vocabulary. logprob: natural log-probability of `tokens` under the
    prediction. complete: nothing follows.
    """

    prompt: Sequence[int]
    text: str
    tokens: tuple[int, ...]
    logprob: float
    complete: bool


class Verifier(ABC):
    """Says how good outputs are, whole ones and unfinished ones: what a search goes by."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def score(self, model: LanguageModel, candidates: Sequence[Candidate]) -> list[float]:
        """One number for each, higher is better; compared among candidates of one request only."""


class Search(ABC):
    """A strategy over whole outputs: which are begun, which go on, which is given."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("logits",)
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def run(self, root: Branch, judge: Callable[[Sequence[Branch]], list[float]]) -> Branch:
        """The output to give.

        root: before the first token. judge: the verifier's scores of branches, whole or so far."""
