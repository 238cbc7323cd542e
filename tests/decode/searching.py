"""Exhaustive search over all outputs of a few tokens, the slow reference of the searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tokloom.models.language_model import LanguageModel


@torch.inference_mode()
def next_logprobs(model: LanguageModel, tokens: Sequence[int]) -> torch.Tensor:
    """Natural log-probabilities (vocabulary,) of what follows, by transformers alone."""
    logits = model.model(torch.tensor([list(tokens)])).logits[0, -1]
    return logits.float().log_softmax(-1)


def outputs(model: LanguageModel, prompt: list[int], length: int, width: int) -> list[tuple[tuple[int, ...], float]]:
    """All outputs of `length` tokens, or fewer with an end, each token among the `width` likeliest; with log p."""
    found: list[tuple[tuple[int, ...], float]] = []

    def extend(tokens: tuple[int, ...], logprob: float) -> None:
        if len(tokens) == length or (tokens and tokens[-1] in model.eos_ids):
            found.append((tokens, logprob))
            return
        values, ids = next_logprobs(model, [*prompt, *tokens]).topk(width)
        for token, value in zip(ids.tolist(), values.tolist(), strict=True):
            extend((*tokens, token), logprob + value)

    extend((), 0.0)
    return found


def beam(
    model: LanguageModel, prompt: list[int], length: int, width: int, expansions: int,
    value: Callable[[tuple[int, ...], float], float],
) -> tuple[int, ...]:  # fmt: skip
    """The textbook's beam search, everything computed anew at every step."""
    held: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for _ in range(length):
        ended = [each for each in held if each[0] and each[0][-1] in model.eos_ids]
        grown = list(ended)
        for tokens, logprob in held:
            if (tokens, logprob) in ended:
                continue
            values, ids = next_logprobs(model, [*prompt, *tokens]).topk(expansions)
            grown += [((*tokens, t), logprob + v) for t, v in zip(ids.tolist(), values.tolist(), strict=True)]
        held = sorted(grown, key=lambda each: -value(*each))[:width]
    return held[0][0]
