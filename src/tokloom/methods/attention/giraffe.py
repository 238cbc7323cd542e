"""Giraffe stretches rotary positions beyond the trained window by changing their frequencies, without training.

Paper: P101. Giraffe: Adventures in Expanding Context Lengths in LLMs. arXiv:2308.10882
Formula: f_i is the plain frequency of pair i of d / 2, L the trained window, s = `scale`.
    linear: f_i / s. ntk: f_i s^(-2i / (d - 2)). power: f_i (1 - 2i / d)^power.
    truncated: f_i where f_i >= 2 pi / L; 2 pi / (s L) where f_i >= 2 pi / (8 L); 0 below that.
    yarn: with r_i = f_i L / (2 pi), the turns in the window, and g_i = clamp((r_i - 1) / 31, 0, 1), it is
    g_i f_i + (1 - g_i) f_i / s; cosines and sines are multiplied by 0.1 ln s + 1.
Shapes: frequencies (head_dim / 2,); every policy of the stage works over the keys that they rotate.
Effect: the paper finds linear scaling the most robust of all after fine-tuning, and truncated good in perplexity but
    weaker in retrieval. Without fine-tuning on SmolLM2-135M, perplexity of positions 0-2k / 8-10k / 10-12k at a scale
    of 2 and a window of 8k (benchmarks/rope_scaling.py): plain 27 / 38 / 60, linear 56 / 74 / 72, ntk 27 / 39 / 36,
    power 27 / 38 / 37, truncated 27 / 904 / 2,692, yarn 27 / 39 / 36. So ntk, yarn and power extend the window as they
    are; linear and truncated need the paper's fine-tuning.
Differs: the paper fine-tunes after scaling, this only scales. The paper's truncated basis has s = 16. A scale of 1
    is the plain model in every basis. NTK-aware scaling and YaRN (arXiv:2309.00071) are there for comparison.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from tokloom.models.rotary_scaling import RotaryScaling
from tokloom.registry import method

FAST, SLOW = 32, 1
"""YaRN: pairs with more turns in the window than FAST keep their frequency, with fewer than SLOW are interpolated."""


@method(stage="attention")
class Giraffe(RotaryScaling):
    """One basis, stretched by a factor."""

    basis: Literal["linear", "ntk", "power", "truncated", "yarn"] = Field(default="linear")
    """How frequencies change."""
    scale: float = Field(default=4.0, ge=1)
    """How many times the trained window; 1 changes nothing."""
    power: float = Field(default=0.1, ge=0)
    """The exponent of basis power; 0 changes nothing."""

    def window(self, trained: int) -> int:
        return int(trained * self.scale)

    def frequencies(self, plain: torch.Tensor, trained: int) -> tuple[torch.Tensor, float]:
        if self.scale == 1:
            return plain, 1.0
        pair = torch.arange(len(plain), dtype=plain.dtype, device=plain.device)
        interpolated = plain / self.scale
        if self.basis == "linear":
            return interpolated, 1.0
        if self.basis == "ntk":
            return plain * self.scale ** (-pair / (len(plain) - 1)), 1.0
        if self.basis == "power":
            return plain * (1 - pair / len(plain)) ** self.power, 1.0
        once = 2 * math.pi / trained  # one turn in the window
        if self.basis == "truncated":
            low = plain.new_full((), once / self.scale)
            kept = torch.where(plain >= once, plain, low)
            return kept.masked_fill(plain < once / 8, 0), 1.0
        keep = ((plain / once - SLOW) / (FAST - SLOW)).clamp(0, 1)
        return keep * plain + (1 - keep) * interpolated, 0.1 * math.log(self.scale) + 1
