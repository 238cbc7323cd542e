"""Beam search against the textbook's and against exhaustive search."""

from __future__ import annotations

import pytest

from tests.decode.searching import beam, outputs
from tokloom import Engine, Sampling
from tokloom.errors import CompositionError, SpecError, UnknownNameError
from tokloom.models.language_model import LanguageModel

RAW = "log_probability:mean=false"

PROMPT = "one two three four five six seven"


@pytest.mark.parametrize("width", [1, 3])
def test_equals_the_textbook(tiny_llama: LanguageModel, width: int) -> None:
    prompt = tiny_llama.encode(PROMPT)
    expected = beam(tiny_llama, prompt, 6, width, 4, lambda tokens, logprob: logprob)
    engine = Engine(tiny_llama, search=f"beam_search:width={width},expansions=4", verifier=RAW)
    result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=6))
    assert result.tokens == expected


def test_a_beam_that_holds_everything_is_exhaustive_search(tiny_llama: LanguageModel) -> None:
    prompt = tiny_llama.encode(PROMPT)
    best, _ = max(outputs(tiny_llama, prompt, 3, 3), key=lambda each: each[1])
    engine = Engine(tiny_llama, search="beam_search:width=9,expansions=3", verifier=RAW)
    result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=3))
    assert result.tokens == best


def test_width_one_is_greedy_decoding(tiny_llama: LanguageModel) -> None:
    prompt = PROMPT
    sampling = Sampling(max_new_tokens=12)
    plain = Engine(tiny_llama).generate(prompt, sampling=sampling)
    found = Engine(tiny_llama, search="beam_search:width=1,expansions=1").generate(prompt, sampling=sampling)
    assert (found.text, found.tokens, found.stop_reason) == (plain.text, plain.tokens, plain.stop_reason)


def test_constraint_and_attention_policy_hold_in_every_branch(tiny_llama: LanguageModel) -> None:
    prompt = PROMPT * 6
    options = [" a b", " c d", " e"]
    engine = Engine(tiny_llama, attention="h2o:budget=24,interval=4", search="beam_search:width=3", verifier=RAW)
    result = engine.generate(prompt, constraint='choices:options=[" a b"," c d"," e"]')
    assert result.text in options
    each = {}
    for option in options:
        score = Engine(tiny_llama, attention="h2o:budget=24,interval=4").score(prompt, option)
        each[option] = sum(score.logprobs)
    assert result.ledger.row("decode").counts["branches"] > 3
    assert set(each) == set(options)


@pytest.mark.model
def test_output_is_at_least_as_probable_as_greedy(smollm2: LanguageModel) -> None:
    prompt, sampling = "The capital of France is", Sampling(max_new_tokens=12)
    plain = Engine(smollm2).generate(prompt, sampling=sampling)
    found = Engine(smollm2, search="beam_search:width=4", verifier=RAW).generate(prompt, sampling=sampling)
    scores = [sum(Engine(smollm2).score(prompt, each.text).logprobs) for each in (plain, found)]
    assert scores[1] >= scores[0] - 1e-3


def test_refusals(tiny_llama: LanguageModel) -> None:
    with pytest.raises(CompositionError, match="verifier"):
        Engine(tiny_llama, verifier="log_probability")
    with pytest.raises(UnknownNameError):
        Engine(tiny_llama, search="beam_search:verifier=nobody")
    with pytest.raises(SpecError, match="verifier"):
        Engine(tiny_llama, search="beam_search", verifier="h2o")
