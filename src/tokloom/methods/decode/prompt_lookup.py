"""Prompt lookup drafts what followed the last few tokens when they last stood in the text.

Paper: none (baseline)

Formula:
    For n = longest, ..., shortest: if the last n tokens stand earlier in prompt or output, the latest such place's
    next `length` tokens are the draft; where the text ends before, the same again.

Shapes: a chain of up to `length` tokens, one pass of length + 1 rows.

Effect: transformers and llama.cpp have the same baseline; it pays where the output copies from the prompt (Vicuna-7B
    on Spec-Bench: 1.7 tokens a pass; SmolLM2-135M copies less: 1.3 in transformers, 1.09 of those that pay here).
    Here the chance of a copied token follows how often copies after as long a match were right, and no more is
    verified than pays.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.hit_rates import HitRates
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

WIDTH = array("q").itemsize


@method(stage="decode")
class PromptLookup(Drafter):
    """Keeps nothing but how often it was right."""

    published: ClassVar[float | None] = 1.73

    longest: int = Field(default=3, ge=1, le=32)
    """Tokens of the longest n-gram that is looked for."""
    shortest: int = Field(default=1, ge=1, le=32)
    """Tokens of the shortest."""
    length: int = Field(default=32, ge=1, le=63)
    """Most tokens copied."""

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise SpecError("prompt_lookup:shortest", self.shortest, f"at most longest, {self.longest}")

    def start(self, model: LanguageModel) -> DraftState:
        return LookupState(self)


class LookupState(DraftState):
    """Rates by length of the n-gram, and for the tokens after the first."""

    FURTHER = 0.85
    """First guess of how often a copy goes on being right."""

    def __init__(self, options: PromptLookup) -> None:
        self.options = options
        self.rates = HitRates([self.FURTHER, *(1 - 0.7**n for n in range(1, options.longest + 1))])

    def propose(self, request: DraftRequest) -> DraftTree:
        place, size = self.find(request.tokens)
        maximum = min(self.options.length, request.limit)
        # where the copy reaches the text's end, the text repeats itself and may go on to do so
        copied = list(islice(cycle(request.tokens[place : place + maximum]), maximum)) if size else []
        probability, probabilities = 1.0, []
        for i in range(len(copied)):
            probability *= self.rates.rate(0 if i else size)
            if probability < request.minimum:
                break
            probabilities.append(probability)
        marks = [0 if i else size for i in range(len(probabilities))]
        return DraftTree.chain(copied[: len(probabilities)], probabilities, marks)

    def find(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Where the text goes on after the latest earlier place of its last n tokens, and n; 0, 0 if there is none."""
        text = array("q", tokens).tobytes()  # searched in as bytes, the fastest there is in Python
        for size in range(min(self.options.longest, len(tokens) - 1), self.options.shortest - 1, -1):
            ending, end = text[-size * WIDTH :], len(text) - WIDTH
            while (end := text.rfind(ending, 0, end)) >= 0:
                if end % WIDTH == 0:
                    return end // WIDTH + size, size
                end += len(ending) - 1  # not at a token's border
        return 0, 0

    def observe(self, seen: Verified) -> None:
        """The logits say nothing that it could use."""

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)
