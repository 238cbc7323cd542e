"""Another model's opinion of an output: how probable that one finds the text.

Paper: none (baseline)
Formula: v(y) = log q(y | prompt) / tokens of y, q the other model, which reads the prompt's text and y in its own
    tokens; with `weight` w: (1 - w) * log p(y | prompt) / tokens + w * v(y).
Shapes: one number an output; one pass of the other model for each.
Effect: a verifier that errs elsewhere than the model itself. The test: what it prefers is what the other model gives
    the higher likelihood, counted token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.attention.policy import AttentionPolicy
from tokloom.decode.search import Candidate, Verifier
from tokloom.engine.forward import forward, new_store
from tokloom.kv.store import Step
from tokloom.models.load import load
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


@method(stage="decode")
class SecondOpinion(Verifier):
    """The likelihood under a second model."""

    model: str = Field(default="gemma3-270m")
    """Name, folder, GGUF file or hub id, as of `tokloom.load`."""
    weight: float = Field(default=1.0, ge=0, le=1)
    """The second model's share; the rest is the first one's."""

    def score(self, model: LanguageModel, candidates: Sequence[Candidate]) -> list[float]:
        other = load(self.model)
        own = [each.logprob / max(len(each.tokens), 1) for each in candidates]
        theirs = [self._mean(other, model.decode(each.prompt), each.text) for each in candidates]
        return [(1 - self.weight) * a + self.weight * b for a, b in zip(own, theirs, strict=True)]

    @torch.inference_mode()
    def _mean(self, other: LanguageModel, prompt: str, text: str) -> float:
        before = other.encode_prompt(prompt, chat=False)
        tokens = [*before, *other.encode(text)][: other.window]
        if len(tokens) == len(before):
            return 0.0
        step = Step(tuple(range(len(tokens))), other.device, prompt=True)
        logits = forward(other, new_store(other, AttentionPolicy(), len(tokens)), tokens, step, all_logits=True)
        scores = logits[len(before) - 1 : -1].log_softmax(-1)
        return float(scores.gather(-1, torch.tensor(tokens[len(before) :])[:, None]).mean())
