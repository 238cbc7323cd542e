"""The model's own opinion of an output: how probable it finds it.

Paper: none (baseline)
Formula: v(y) = log p(y | prompt), divided by the number of tokens unless mean=false.
Shapes: one number an output.
Effect: the prior of every search; alone it prefers short and common outputs, which the mean tempers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from tokloom.decode.search import Candidate, Verifier
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


@method(stage="decode")
class LogProbability(Verifier):
    """Costs nothing: the numbers are there."""

    mean: bool = Field(default=True)
    """Per token, so that outputs of different lengths compare."""

    def score(self, model: LanguageModel, candidates: Sequence[Candidate]) -> list[float]:
        return [each.logprob / (max(len(each.tokens), 1) if self.mean else 1) for each in candidates]
