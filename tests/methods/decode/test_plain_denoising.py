"""Plain denoising against a loop over transformers' model that reads everything with a mask that hides nothing."""

from __future__ import annotations

import pytest
import torch

from tokloom import Engine, Sampling
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five"


def logits_of(model: LanguageModel, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.model(
            input_ids=torch.tensor([text]), attention_mask=torch.zeros(1, 1, len(text), len(text))
        ).logits[0]


def denoised(model: LanguageModel, prompt: list[int], length: int, block: int, tokens: int) -> list[int]:
    words = [id for id in range(model.vocabulary.size) if id not in model.vocabulary.special_ids or id in model.eos_ids]
    text = list(prompt)
    while len(text) - len(prompt) < length:
        start = len(text)
        text += [model.mask_id or 0] * min(block, length - (len(text) - len(prompt)))
        masked = list(range(start, len(text)))
        while masked:
            logits = logits_of(model, text)[:, words]
            probabilities, best = logits.softmax(-1).max(-1)
            for place in sorted(masked, key=lambda i: -float(probabilities[i]))[:tokens]:
                text[place] = words[int(best[place])]
                masked.remove(place)
    return text[len(prompt) :]


@pytest.mark.parametrize(("block", "tokens"), [(8, 1), (8, 3), (32, 4), (1, 1)])
def test_the_text_is_that_of_the_slow_loop(block: int, tokens: int, tiny_diffusion: LanguageModel) -> None:
    result = Engine(tiny_diffusion, denoiser=f"plain_denoising:block={block},tokens={tokens}").generate(
        PROMPT, sampling=Sampling(max_new_tokens=20)
    )
    expected = denoised(tiny_diffusion, tiny_diffusion.encode(PROMPT), 20, block, tokens)
    ends = [i for i, token in enumerate(expected) if token in tiny_diffusion.eos_ids]
    assert list(result.tokens) == expected[: ends[0] + 1] if ends else expected
