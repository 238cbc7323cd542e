"""In-context navigation asks for something else than the results already explored, away from their keys.

Paper: P111. Correlation and Navigation in the Vocabulary Key Representation Space of Language Models. arXiv:2410.02284

Formula:
    The next-token distribution is softmax(q k_v) over fixed keys k_v, so that tokens whose keys lie near the
    likeliest token's rank high whether right or not. Instead of going down one ranking, the context lists the explored
    results x_1, ..., x_m and asks for the next: q = f(prompt, "1. x_1", ..., "m. x_m", "m+1. "). The first token is the
    likeliest one that begins no explored result.

Shapes: logits (vocabulary,) after the list; nothing else changes.

Effect: the paper finds more right answers among ten than the ten first of one ranking (knowledge probing), more
    diverse texts and better votes. Here SmolLM2-135M names 47 right ones of 64 with navigation, and 37 down one ranking
    (eight closed questions, eight answers each; benchmarks/key_navigation.py). The list alone does not push it away
    from what was explored: those first tokens have as much probability after eight answers as before; the mask does.
    In the authors' frame for instructed models of 8B (--form quoted) it repeats its first answer's form and finds less.

Differs: the authors mask by the decoded text of first tokens, here by token id, and by a penalty that a constraint can
    outweigh. Their frame of each result is 1. "..."; here the frame is an option, a bare number by default. Their
    variant that completes a result without the list in context is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.decode.prediction import Prediction, Predictor
from tokloom.engine.prediction import PlainPrediction
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.request_context import RequestContext

PENALTY = 1e4
"""Taken off the logits of explored first tokens; a constraint that allows no others still finds the best of them."""


@method(stage="decode")
class KeyNavigation(Predictor):
    """The prompt ends where the list of results begins; the output is the next entry (see stop strings)."""

    explored: tuple[str, ...] = ()
    """Results that are known, oldest first."""
    before: str = "{number}."
    """What stands before each result, in the context and before the output."""
    after: str = Field(default="\n", min_length=1)
    """What stands after each result; its first character makes a good stop string."""

    def __post_init__(self) -> None:
        try:
            self.before.format(number=1)
        except (KeyError, IndexError, ValueError):
            raise SpecError(
                "key_navigation:before", self.before, "a text with at most {number} in braces"
            ) from None  # fmt: skip

    def start(self, host: RequestContext) -> Prediction:
        return NavigatedPrediction(host, self)

    def listed(self) -> str:
        """The explored results as the context shows them, up to where the next one begins."""
        entries = [self.before.format(number=i + 1) + result + self.after for i, result in enumerate(self.explored)]
        return "".join(entries) + self.before.format(number=len(self.explored) + 1)


class NavigatedPrediction(PlainPrediction):
    """The model's prediction after prompt and list."""

    reads_opening = False

    def __init__(self, host: RequestContext, options: KeyNavigation) -> None:
        super().__init__(host)
        listed = options.listed()
        self.list = host.model.encode(listed) if listed else []
        firsts = {host.model.encode(result)[0] for result in options.explored if result}
        self.explored = sorted(firsts)
        """First tokens of the explored results."""
        self.counts = {"explored": len(options.explored)}

    def prompt(self, tokens: Sequence[int]) -> list[int]:
        return [*tokens, *self.list]

    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        logits = super().prefill(self.prompt(tokens), progress)
        away = logits.clone()
        away[self.explored] -= PENALTY
        return away
