"""Softplus attention with re-weighting: sharpens attention weights by a power, on a model that was never trained so.

Paper: P62. Softplus Attention with Re-weighting Boosts Length Extrapolation in Large Language Models. arXiv:2501.13428
Formula: row i sees N tokens. Normalisation: a_ij = softmax_j(q_i k_j / sqrt(d)), or with `softplus`
    a_ij = g_ij / sum_j g_ij, g_ij = softplus(ln(d) ln(N) q_i k_j / sqrt(d)). Re-weighting:
    w_ij = r_ij / sum_j r_ij, r_ij = max(N a_ij - offset, 0)^power; a row without any r_ij > 0 keeps a_ij.
Shapes: q (batch, heads, rows, d), weights (batch, heads, rows, slots).
Effect: the paper trains with both stages and keeps its loss at 16 times the trained length. Without training on
    SmolLM2-135M, loss a token over 100 tokens after 600: dense 3.318; power 1.1: 3.325, 1.2: 3.356, 1.5: 3.500; offset
    0.1 at power 1: 3.309; softplus in place of softmax 4.84, with power 15 and offset 1 besides 7.35. So the
    re-weighting is nearly free at small powers, but both stages in full need the paper's training.
Differs: only the re-weighting is free of training, so softmax is the default normalisation. The scale's constants are
    reconstructed from summaries, and the offset is counted in shares of an even distribution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from tokloom.attention.attend import attention_scores
from tokloom.attention.policy import AttentionPolicy
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer

BLOCK = 64
"""Rows whose weights are held at once."""


@method(stage="attention")
class SoftplusAttention(AttentionPolicy):
    """Dense, with other weights."""

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")

    normalisation: Literal["softmax", "softplus"] = Field(default="softmax")
    """The first stage; softplus only for models trained with it."""
    power: float = Field(default=1.1, ge=1)
    """Exponent of the re-weighting; with offset 0, 1 changes nothing."""
    offset: float = Field(default=0.0, ge=0)
    """Weights below this many even shares become zero."""

    def attention(
        self, layer: KVLayer, queries: torch.Tensor, scale: float, softcap: float | None
    ) -> torch.Tensor | None:
        if self.normalisation == "softmax" and self.power == 1 and self.offset == 0:
            return None
        batch, heads, rows, _ = queries.shape
        keys, values = layer.keys, layer.values
        seen = torch.ones(rows, layer.count, dtype=torch.bool, device=queries.device)
        seen[:, layer.past :] = layer.step.own
        out = queries.new_empty(batch, heads, rows, values.shape[-1])
        for first in range(0, rows, BLOCK):
            part = slice(first, first + BLOCK)
            scores = attention_scores(
                queries[:, :, part], keys, scale, softcap
            )  # (batch, kv_heads, group, rows, slots)
            weights = self._weights(scores, seen[part], queries.shape[-1])
            out[:, :, part] = (weights @ values[:, :, None]).flatten(1, 2)
        return out

    def _weights(self, scores: torch.Tensor, seen: torch.Tensor, width: int) -> torch.Tensor:
        """As `scores`, under the mask `seen` (rows, slots)."""
        visible = seen.sum(-1, keepdim=True).to(scores.dtype)  # N, (rows, 1)
        if self.normalisation == "softmax":
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        else:
            weights = torch.nn.functional.softplus(scores * visible.log() * math.log(width)).masked_fill(~seen, 0)
            weights = weights / weights.sum(-1, keepdim=True)
        if self.power == 1 and self.offset == 0:
            return weights
        shares = (weights * visible - self.offset).clamp_min(0)
        maximum = shares.amax(-1, keepdim=True)
        sharp = (shares / maximum) ** self.power  # by the largest first, so that no power overflows
        return torch.where(maximum > 0, sharp / sharp.sum(-1, keepdim=True), weights)
