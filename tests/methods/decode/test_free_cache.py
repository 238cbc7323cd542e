"""FreeCache: with nothing frozen it is plain denoising; what is frozen is what the first pass of a block computed."""

from __future__ import annotations

import pytest
import torch

from tokloom import Engine, Sampling
from tokloom.methods.decode.free_cache import FreeCache
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five"


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=40), Sampling(max_new_tokens=40, temperature=0.9, seed=2)]
)
def test_read_anew_in_every_pass_it_changes_nothing(sampling: Sampling, tiny_diffusion: LanguageModel) -> None:
    plain = Engine(tiny_diffusion, denoiser="plain_denoising:block=8").generate(PROMPT, sampling=sampling)
    cached = Engine(
        tiny_diffusion, denoiser="plain_denoising:block=8", denoising_cache="free_cache:refresh=1"
    ).generate(PROMPT, sampling=sampling)
    assert cached.tokens == plain.tokens
    assert cached.ledger.row("decode").counts == plain.ledger.row("decode").counts


def test_a_pass_over_frozen_keys_and_values(tiny_diffusion: LanguageModel) -> None:
    """The second pass of a block, written as one pass in which the old block's rows stand beside the new ones."""
    model = tiny_diffusion.model
    prompt, mask = tiny_diffusion.encode(PROMPT), tiny_diffusion.mask_id or 0
    size, start = 6, len(prompt)
    before, after = [mask] * size, [mask, 50, mask, 60, 61, mask]
    reading = FreeCache().start(tiny_diffusion)
    reading.read([*prompt, *before], start)
    got = reading.read([*prompt, *after], start)
    seen = torch.ones(start + 2 * size, start + 2 * size, dtype=torch.bool)
    seen[: start + size, start + size :] = False
    seen[start + size :, start : start + size] = False
    places = [*range(start + size), *range(start, start + size)]
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor([[*prompt, *before, *after]]),
            position_ids=torch.tensor([places]),
            attention_mask=seen[None, None],
        ).logits[0, -size:]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(got, reading.both_ways([*prompt, *after], 0)[start:], atol=1e-3)  # it is approximate


def test_only_the_block_and_the_one_before_are_read(tiny_diffusion: LanguageModel) -> None:
    result = Engine(tiny_diffusion, denoiser="plain_denoising:block=8", denoising_cache="free_cache").generate(
        PROMPT, sampling=Sampling(max_new_tokens=24)
    )
    assert len(result.tokens) == 24
    first = result.prompt_tokens + 8 + 7 * 8
    later = 2 * (16 + 7 * 8)
    assert result.ledger.row("decode").counts["read rows"] == first + later
    assert result.ledger.row("decode").savings[0].what == "tokens read"


def test_refresh_reads_everything_now_and_then(tiny_diffusion: LanguageModel) -> None:
    reading = FreeCache(refresh=3).start(tiny_diffusion)
    text = [*tiny_diffusion.encode(PROMPT), *[tiny_diffusion.mask_id or 0] * 4]
    sizes = []
    for _ in range(7):
        before = reading.rows
        reading.read(text, len(text) - 4)
        sizes.append(reading.rows - before)
    assert sizes == [len(text), 4, 4, len(text), 4, 4, len(text)]
