"""Stretched rotary positions: the frequencies by hand, both forward paths, and two engines on one model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests import tiny_models
from tests.attention.test_attend import reference_logits, some_tokens
from tests.models.test_fused_decoder import build, run
from tokloom import Engine, Sampling
from tokloom.errors import BudgetError, SpecError, UnsupportedModelError
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.giraffe import Giraffe
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack
from tokloom.models.rotary import with_rotary

BASES = ("linear", "ntk", "power", "truncated", "yarn")


def by_hand(basis: str, f: float, i: int, width: int, base: float, window: int, s: float) -> float:
    """The frequency of pair i, from the papers' definitions."""
    if basis == "linear":
        return f / s
    if basis == "ntk":  # a larger base
        return (base * s ** (width / (width - 2))) ** (-2 * i / width)
    if basis == "power":
        return f * (1 - 2 * i / width) ** 0.1
    wavelength = 2 * math.pi / f
    if basis == "truncated":
        return f if wavelength <= window else 2 * math.pi / (s * window) if wavelength <= 8 * window else 0.0
    turns = window / wavelength
    ramp = 0.0 if turns < 1 else 1.0 if turns > 32 else (turns - 1) / 31
    return (1 - ramp) * f / s + ramp * f


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("width", "base", "window"), [(64, 1e5, 8192), (16, 1e4, 1024)])
def test_frequencies_are_those_of_the_formula(basis: str, width: int, base: float, window: int) -> None:
    plain = torch.tensor([base ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    found, factor = Giraffe(basis=basis, scale=16).frequencies(plain, window)
    expected = [by_hand(basis, float(f), i, width, base, window, 16) for i, f in enumerate(plain)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert factor == (pytest.approx(0.1 * math.log(16) + 1) if basis == "yarn" else 1)


def test_logits_are_those_of_transformers_own_linear_scaling(tiny_llama: LanguageModel) -> None:
    """A second model with the same weights that was configured so."""
    tokenizer = tiny_models.chat_tokenizer()
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    config = LlamaConfig(**tiny_models.shape(tokenizer, 3), tie_word_embeddings=False, rope_parameters=rope)
    other = LanguageModel("other", tiny_models.random_model(LlamaForCausalLM, config), tokenizer)
    tokens = some_tokens(tiny_llama, 60)
    found = reference_logits(with_rotary(tiny_llama, Giraffe(basis="linear", scale=4)), tokens)
    torch.testing.assert_close(found, reference_logits(other, tokens), atol=1e-4, rtol=1e-4)
    assert (found - reference_logits(tiny_llama, tokens)).abs().max() > 0.1


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("basis", BASES)
def test_the_fused_path_equals_transformers(family: str, basis: str) -> None:
    """And where layer types have frequencies of their own, the sliding ones keep theirs."""
    scaling = Giraffe(basis=basis, scale=3)
    unpacked, packed = build(family), build(family)
    pack(packed.model, "exact")
    plain, _ = run(unpacked, Dense())
    expected, _ = run(with_rotary(unpacked, scaling), Dense())
    scaled = with_rotary(packed, scaling)
    assert scaled.fused is not None
    found, _ = run(scaled, Dense())
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 1e-3
    again, _ = run(packed, Dense())
    torch.testing.assert_close(again, plain, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("basis", BASES)
def test_scale_one_is_the_plain_model(basis: str, tiny_llama: LanguageModel) -> None:
    tokens = some_tokens(tiny_llama, 40)
    found = reference_logits(with_rotary(tiny_llama, Giraffe(basis=basis, scale=1)), tokens)
    assert torch.equal(found, reference_logits(tiny_llama, tokens))


@pytest.mark.parametrize("attention", ["dense", "h2o:budget=40,interval=4", "token_select:budget=40,local=8,sink=2"])
def test_two_engines_on_one_model_do_not_disturb_each_other(attention: str) -> None:
    """Streams taken in turns give what each gives alone, under any policy."""
    model = build("llama")
    pack(model.model, "exact")
    prompt, sampling = "one two three four five six seven " * 6, Sampling(max_new_tokens=12)
    ropes = (None, "giraffe:scale=2", "giraffe:basis=ntk,scale=8")
    engines = [Engine(model, attention=attention, rope=rope) for rope in ropes]
    alone = [engine.generate(prompt, sampling=sampling).tokens for engine in engines]
    streams = [engine.stream(prompt, sampling=sampling) for engine in engines]
    live = list(streams)
    while live:
        live = [stream for stream in live if next(stream, None) is not None]
    assert [stream.result.tokens for stream in streams] == alone
    assert len(set(alone)) > 1
    assert streams[1].result.components["rope"] == "giraffe:scale=2.0"


def test_the_window_follows_the_scale(tiny_llama: LanguageModel) -> None:
    prompt = "one " * (tiny_llama.window + 200)
    with pytest.raises(BudgetError, match="fewer than 1024"):
        Engine(tiny_llama).generate(prompt)
    engine = Engine(tiny_llama, rope="giraffe:scale=2.5")
    assert engine.model.window == 2560
    assert tiny_llama.window == 1024
    assert engine.generate(prompt, sampling=Sampling(max_new_tokens=2)).prompt_tokens > 1024


def test_what_can_not_be_scaled_is_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="giraffe:scale"):
        Giraffe(scale=0.5)
    with pytest.raises(SpecError, match="giraffe:basis"):
        Giraffe(basis="cubic")
    config = tiny_llama.model.config.to_dict() | {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    }
    dynamic = tiny_models.random_model(LlamaForCausalLM, LlamaConfig(**config))
    with pytest.raises(UnsupportedModelError, match="giraffe can't work on dynamic"):
        Engine(LanguageModel("dynamic", dynamic, tiny_llama.tokenizer), rope="giraffe")


@pytest.mark.model
def test_effect_on_rotation_that_was_never_trained(smollm2: LanguageModel, alice: str) -> None:
    """Positions beyond the window are read if interpolated, shown without a pass over so many tokens.

    Frequencies multiplied by 192 put 100 tokens as far apart as 19,200: beyond the window of 8,192. Interpolation by
    192 undoes that exactly, so that the loss is the plain model's, and far worse without (measured, in nats: 3.77, and
    9.21).
    """

    class Spread(Giraffe):
        def frequencies(self, plain: torch.Tensor, trained: int) -> tuple[torch.Tensor, float]:
            return super().frequencies(plain * 192, trained)

    def loss(change: Callable[[LanguageModel], LanguageModel]) -> float:
        score = Engine(change(smollm2)).score(alice[20000:20400], alice[20400:20500])
        return -sum(score.logprobs) / len(score.logprobs)

    plain = loss(lambda model: model)
    spread = loss(lambda model: with_rotary(model, Spread(basis="linear", scale=1)))
    undone = loss(lambda model: with_rotary(model, Spread(basis="linear", scale=192)))
    assert undone == pytest.approx(plain, abs=1e-3)
    assert spread > plain + 1
