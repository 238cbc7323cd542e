"""The loop of diffusion models: stops, streams and samples as the other one does; what does not fit is refused."""

from __future__ import annotations

import pytest

from tokloom import Engine, Sampling
from tokloom.errors import CompositionError, UnknownNameError
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five"


@pytest.mark.parametrize(
    ("denoiser", "cache"), [("plain_denoising:tokens=3,block=8", None), ("plain_denoising:block=5", "free_cache")]
)
def test_streaming_and_limits(denoiser: str, cache: str | None, tiny_diffusion: LanguageModel) -> None:
    engine = Engine(tiny_diffusion, denoiser=denoiser, denoising_cache=cache)
    for sampling in (Sampling(max_new_tokens=19), Sampling(max_new_tokens=19, temperature=1.0, min_p=0.01, seed=3)):
        whole = engine.generate(PROMPT, sampling=sampling)
        stream = engine.stream(PROMPT, sampling=sampling)
        assert "".join(chunk.text for chunk in stream) == whole.text == stream.result.text
        assert stream.result.tokens == whole.tokens
        assert len(whole.tokens) == 19 or whole.stop_reason == "end"
        assert tiny_diffusion.mask_id not in whole.tokens
    assert whole.components["denoiser"] == denoiser
    assert whole.components.get("denoising_cache") == cache


def test_stop_strings(tiny_diffusion: LanguageModel) -> None:
    engine = Engine(tiny_diffusion, denoiser="plain_denoising:block=8")
    text = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=24)).text
    stop = text[4:6]
    stopped = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=24, stop=(stop,)))
    assert stopped.text == text[: text.index(stop)]
    assert stopped.stop_reason == "stop"


def test_the_ledger_tells_passes_and_rows(tiny_diffusion: LanguageModel) -> None:
    result = Engine(tiny_diffusion, denoiser="plain_denoising:block=8,tokens=2").generate(
        PROMPT, sampling=Sampling(max_new_tokens=16)
    )
    row = result.ledger.row("decode")
    assert row.forward_passes == 8
    assert row.counts["read rows"] == sum(4 * (result.prompt_tokens + end) for end in (8, 16))


def test_what_does_not_fit_is_refused(tiny_diffusion: LanguageModel, tiny_llama: LanguageModel) -> None:
    with pytest.raises(CompositionError, match="no diffusion model"):
        Engine(tiny_llama, denoiser="plain_denoising")
    with pytest.raises(CompositionError, match="token_recycling"):
        Engine(tiny_diffusion, drafter="token_recycling")
    with pytest.raises(CompositionError, match="h2o"):
        Engine(tiny_diffusion, attention="h2o")
    with pytest.raises(CompositionError, match="choices"):
        Engine(tiny_diffusion).generate(PROMPT, constraint='choices:options=["a","b"]')
    with pytest.raises(CompositionError, match="score"):
        Engine(tiny_diffusion).score(PROMPT, "six")
    with pytest.raises(UnknownNameError, match="no_such"):
        Engine(tiny_diffusion, denoising_cache="no_such")
