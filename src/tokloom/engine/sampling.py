"""Draws the next token from logits."""

from __future__ import annotations

import math

import numpy as np
import torch

from tokloom.engine.request import Sampling
from tokloom.errors import LogitsError


class Sampler:
    """Draws one token at a time for one request.

    It takes exactly one random number a token, in the order of the text, so that a seed gives the
    same text whether tokens were drafted or not.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self.generator = torch.Generator()
            if sampling.seed is not None:
                self.generator.manual_seed(sampling.seed)
            else:
                self.generator.seed()

    def draw(self, logits: torch.Tensor, allowed: torch.Tensor | None = None) -> int:
        """One token from a row of logits, (vocabulary,); `allowed` is a bool row, None for all."""
        if self.generator is None and logits.device.type == "cpu":
            # numpy: torch's threads would then wait actively where the next pass needs the cores
            scores = logits.numpy()
            best = int((scores if allowed is None else np.where(allowed.numpy(), scores, -np.inf)).argmax())
            check_finite(float(scores[best]))
            return best
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        check_finite(float(logits.max()))
        if self.generator is None:
            return int(logits.argmax())
        values, tokens = filtered(logits, self.sampling)
        # Inverse of the cumulative distribution, most likely token first.
        cumulative = values.softmax(-1).cumsum(-1)
        point = torch.rand((), generator=self.generator, dtype=torch.float64).item() * float(cumulative[-1])
        place = int(torch.searchsorted(cumulative, torch.tensor(point, dtype=torch.float64), right=True))
        return int(tokens[min(place, len(tokens) - 1)])


def check_finite(highest: float) -> None:
    """Raises LogitsError if the highest logit of a row is NaN or infinite: no token can be drawn from it."""
    if math.isnan(highest) or highest == math.inf:
        raise LogitsError(
            f"The model's logits are {highest}: no token can be drawn from them. Its weights or activations are not "
            'finite; check the file, or load it with dtype="float32".'
        )


def filtered(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled logits that pass top-k, top-p and min-p, and their token ids, most likely first; float64, that of the
    likeliest 0.

    Each filter keeps at least the likeliest token and sees what the one before it left, as in transformers.
    """
    finite = int((logits > -torch.inf).sum())
    count = max(1, min(sampling.top_k or finite, finite))
    if count < logits.shape[-1]:
        values, tokens = logits.topk(count)
    else:
        values, tokens = logits.sort(descending=True)
    values, tokens = values.cpu().double(), tokens.cpu()  # not every device has float64
    values = (values - values[0]) / sampling.temperature  # nothing overflows, however low the temperature
    if sampling.top_p < 1:
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        kept = max(1, int((before < sampling.top_p).sum()))
        values, tokens = values[:kept], tokens[:kept]
    if sampling.min_p > 0:
        probabilities = values.softmax(-1)
        kept = max(1, int((probabilities >= sampling.min_p * probabilities[0]).sum()))
        values, tokens = values[:kept], tokens[:kept]
    return values, tokens


def unpack(mask: np.ndarray, size: int) -> torch.Tensor:
    """A bitmask, int32 (ceil(size / 32),), as bool (size,)."""
    return torch.from_numpy(np.unpackbits(mask.view(np.uint8), count=size, bitorder="little").view(bool))
