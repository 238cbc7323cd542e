"""Fills in the tokens that the diffusion model is surest of, a fixed number a pass.

Paper: none (baseline)
Formula: of the masked tokens of a block, the `tokens` whose proposal has the highest probability.
Effect: the baseline: one token a pass is the model's best, more are faster and fit together less well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tokloom.decode.denoiser import Denoiser, Proposals, Unmasking
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.request_context import RequestContext


@method(stage="decode")
class PlainDenoising(Denoiser):
    tokens: int = Field(default=1, ge=1)
    """Tokens filled in in each pass."""
    block: int = Field(default=32, ge=1)
    """Tokens that are denoised together."""

    def start(self, host: RequestContext) -> Unmasking:
        return Surest(self.tokens)


class Surest(Unmasking):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def choose(self, proposals: Proposals) -> dict[int, int]:
        order = sorted(range(len(proposals.places)), key=lambda i: -proposals.probabilities[i])
        return {proposals.places[i]: proposals.tokens[i] for i in order[: self.tokens]}
