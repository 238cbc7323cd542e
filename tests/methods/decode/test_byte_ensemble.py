"""Ensembles over bytes: mixtures of what their members say, whatever their vocabularies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.decode.test_byte_level import predicted
from tokloom import Engine, Sampling
from tokloom.errors import ArgumentError
from tokloom.methods.decode import byte_ensemble
from tokloom.models.language_model import LanguageModel
from tokloom.models.translation import translate
from tokloom.tokenize.byte_vocabulary import END


@pytest.fixture
def second(tiny_gemma3: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setattr(byte_ensemble, "loaded", lambda name: tiny_gemma3)
    return tiny_gemma3


PROMPT, DATA = "one two thr", b"ee four"


def rows_of(model: LanguageModel, spec: str) -> torch.Tensor:
    return torch.stack(predicted(model, PROMPT, DATA, spec)[0]).double()


@pytest.mark.parametrize("mixture", ["mean", "product"])
def test_mixtures(mixture: str, tiny_llama: LanguageModel, second: LanguageModel) -> None:
    a, b = rows_of(tiny_llama, "byte_level").exp(), rows_of(second, "byte_level").exp()
    mixed = rows_of(tiny_llama, f"byte_ensemble:mixture={mixture},weights=[3,1]")
    expected = 0.75 * a + 0.25 * b if mixture == "mean" else a**0.75 * b**0.25
    np.testing.assert_allclose(mixed.exp(), expected / expected.sum(-1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("mixture", ["mean", "product"])
def test_a_member_of_weight_0_says_nothing(mixture: str, tiny_llama: LanguageModel, second: LanguageModel) -> None:
    alone = rows_of(tiny_llama, "byte_level")
    mixed = rows_of(tiny_llama, f"byte_ensemble:mixture={mixture},weights=[1,0]")
    np.testing.assert_allclose(mixed.exp(), alone.exp(), atol=1e-6)


def test_generating(tiny_llama: LanguageModel, second: LanguageModel) -> None:
    engine = Engine(tiny_llama, predictor="byte_ensemble:mixture=product")
    sampling = Sampling(max_new_tokens=12, temperature=0.9, seed=1)
    result = engine.generate(PROMPT, sampling=sampling)
    assert result.tokens == engine.generate(PROMPT, sampling=sampling).tokens
    assert bytes(token for token in result.tokens if token < END).decode(errors="replace") == result.text
    assert engine.generate(PROMPT, constraint='choices:options=["ee four","ee"]').text in ("ee four", "ee")


@pytest.mark.parametrize("weights", ["[1]", "[1,2,3]", "[0,0]", "[1,-1]"])
def test_weights_that_do_not_fit(weights: str, tiny_llama: LanguageModel, second: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="weights"):
        Engine(tiny_llama, predictor=f"byte_ensemble:weights={weights}").generate(PROMPT)


def test_prompts_are_translated(tiny_chat_llama: LanguageModel, tiny_gemma3: LanguageModel) -> None:
    """What both name alike stays special; the beginning is there once; the text is written anew."""
    vocabulary = tiny_chat_llama.vocabulary
    tokens = tiny_chat_llama.chat_tokens([{"role": "user", "content": "one two <bos>"}])
    text = "user\none two <bos>\nassistant\n"
    assert translate(tokens, vocabulary, tiny_chat_llama)[0] == tokens[0]
    translated = translate(tokens, vocabulary, tiny_gemma3)
    bos: Any = tiny_gemma3.tokenizer.bos_token_id
    assert translated[0] == bos
    spelled = b"".join(tiny_gemma3.vocabulary.token_bytes[token] for token in translated)
    assert spelled.decode() == text
    assert translate(translated, tiny_gemma3.vocabulary, tiny_gemma3)[:2] == translated[:2]


@pytest.mark.paper
@pytest.mark.timeout(1800)
def test_effect_two_models_know_more_than_one(smollm2: LanguageModel, alice: str) -> None:
    """Bits a byte on a book: the product is below the better one of the two models, the mean not above it."""
    bits = {}
    for spec in ("byte_level", "byte_ensemble:weights=[0,1]", "byte_ensemble", "byte_ensemble:mixture=product"):
        engine = Engine(smollm2, predictor=f"{spec}{',' if ':' in spec else ':'}minimum=0.001")
        scores = [
            engine.score(alice[start : start + 400], alice[start + 400 : start + 480])
            for start in (20_000, 40_000, 60_000)
        ]
        total = sum(len(score.tokens) for score in scores)
        bits[spec] = -sum(sum(score.logprobs) for score in scores) / total / math.log(2)
    print(bits)
    alone = min(bits["byte_level"], bits["byte_ensemble:weights=[0,1]"])
    assert bits["byte_ensemble:mixture=product"] < alone - 0.005
    assert bits["byte_ensemble"] < alone + 0.005
