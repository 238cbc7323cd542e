"""Guided Diffusion: what is taken follows the definition; a guide that agrees spares passes."""

from __future__ import annotations

import pytest
import torch

from tokloom import Engine, Sampling
from tokloom.decode.denoiser import Proposals
from tokloom.engine.request_context import RequestContext
from tokloom.errors import CompositionError
from tokloom.methods.decode import guided_diffusion
from tokloom.methods.decode.guided_diffusion import GuidedDiffusion
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five"


@pytest.fixture
def guide(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setattr(guided_diffusion, "loaded", lambda name: tiny_llama)
    return tiny_llama


def taken(guide: LanguageModel, proposals: Proposals, tolerance: float, correct: bool) -> dict[int, int]:
    text = proposals.filled()
    never = sorted(guide.vocabulary.special_ids - guide.eos_ids)
    with torch.no_grad():
        probabilities = guide.model(torch.tensor([text])).logits[0].softmax(-1)
    probabilities[:, never] = 0.0
    out: dict[int, int] = {}
    for place, token in zip(proposals.places, proposals.tokens, strict=True):
        if probabilities[place - 1, token] < tolerance * probabilities[place - 1].max():
            if correct:
                out[place] = int(probabilities[place - 1].argmax())
            break
        out[place] = token
    return out or {proposals.places[0]: proposals.tokens[0]}


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("tolerance", [1.0, 0.3, 0.01])
def test_what_is_taken(tolerance: float, correct: bool, guide: LanguageModel, tiny_diffusion: LanguageModel) -> None:
    """Over passes in which tokens become known, also between masks, and proposals change."""
    host = RequestContext(tiny_diffusion, Engine(tiny_diffusion).attention, 16, kv=None, prefill_chunk=512)
    unmasking = GuidedDiffusion(guide="guide", tolerance=tolerance, correct=correct).start(host)
    text = [*guide.encode(PROMPT), *[tiny_diffusion.mask_id or 0] * 10]
    start = len(text) - 10
    draw = torch.Generator().manual_seed(4)
    text[start + 3] = 77
    counts = []
    while masked := [i for i in range(start, len(text)) if text[i] == tiny_diffusion.mask_id]:
        proposed = torch.randint(5, 390, (len(masked),), generator=draw).tolist()
        with torch.no_grad():  # the first few often as the guide would have it
            for n in range(min(3, len(masked))):
                known = [*text[: masked[n]]]
                for place, token in zip(masked[:n], proposed, strict=False):
                    known[place] = token
                if torch.rand((), generator=draw) < 0.7:
                    proposed[n] = int(guide.model(torch.tensor([known])).logits[0, -1].argmax())
        proposals = Proposals(text, masked, proposed, [0.5] * len(masked))
        chosen = unmasking.choose(proposals)
        assert chosen == taken(guide, proposals, tolerance, correct)
        counts.append(len(chosen))
        for place, token in chosen.items():
            text[place] = token
    assert max(counts) > 1
    assert unmasking.counts["guide passes"] == len(counts)
    assert (unmasking.counts["guide corrected"] > 0) == correct


@pytest.mark.parametrize("cache", [None, "free_cache"])
def test_a_guide_that_agrees_ends_a_block_at_once(
    cache: str | None, guide: LanguageModel, tiny_diffusion: LanguageModel
) -> None:
    sampling = Sampling(max_new_tokens=24, temperature=0.8, seed=1)

    def passes(tolerance: float) -> int:
        spec = f"guided_diffusion:guide=g,block=8,tolerance={tolerance},correct=false"
        result = Engine(tiny_diffusion, denoiser=spec, denoising_cache=cache).generate(PROMPT, sampling=sampling)
        assert len(result.tokens) == 24
        return result.ledger.row("decode").forward_passes

    assert passes(1e-30) == 3
    assert passes(1.0) > 12  # two random models seldom agree


def test_a_guide_that_corrects_writes_its_own_greedy_text(guide: LanguageModel, tiny_diffusion: LanguageModel) -> None:
    """Tolerance 1 with corrections: every token is the guide's likeliest, and no pass gives less than one."""
    sampling = Sampling(max_new_tokens=24, temperature=0.8, seed=1)
    engine = Engine(tiny_diffusion, denoiser="guided_diffusion:guide=g,block=8")
    result = engine.generate(PROMPT, sampling=sampling)
    text = guide.encode(PROMPT)
    never = sorted(guide.vocabulary.special_ids - guide.eos_ids)
    for token in result.tokens:
        with torch.no_grad():
            logits = guide.model(torch.tensor([text])).logits[0, -1]
        logits[never] = -torch.inf
        assert token == int(logits.argmax())
        text.append(token)
    row = result.ledger.row("decode")
    assert row.counts["guide agreed"] + row.counts["guide corrected"] == len(result.tokens)
    assert row.forward_passes <= len(result.tokens)


def test_guides_of_another_vocabulary_are_refused(
    tiny_gemma3: LanguageModel, tiny_diffusion: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided_diffusion, "loaded", lambda name: tiny_gemma3)
    with pytest.raises(CompositionError, match="vocabularies differ"):
        Engine(tiny_diffusion, denoiser="guided_diffusion:guide=g").generate(PROMPT)
