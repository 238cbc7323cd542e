"""The second model's likelihood against transformers' own, and the mixture."""

from __future__ import annotations

import pytest
import torch

from tests.decode.searching import next_logprobs
from tokloom.decode.search import Candidate
from tokloom.methods.decode.log_probability import LogProbability
from tokloom.methods.decode.second_opinion import SecondOpinion
from tokloom.models.language_model import LanguageModel


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch, tiny_qwen3: LanguageModel) -> LanguageModel:
    monkeypatch.setattr("tokloom.methods.decode.second_opinion.load", lambda name: tiny_qwen3)
    return tiny_qwen3


def test_is_the_mean_likelihood_under_the_other_model(tiny_llama: LanguageModel, second: LanguageModel) -> None:
    prompt = "one two three"
    candidates = [
        Candidate(tiny_llama.encode(prompt), text, (1, 2), -3.0 * i, True) for i, text in enumerate((" four", " a b"))
    ]
    expected = []
    for candidate in candidates:
        tokens = second.encode_prompt(prompt, chat=False)
        values = []
        for token in second.encode(candidate.text):
            values.append(float(next_logprobs(second, tokens)[token]))
            tokens = [*tokens, token]
        expected.append(sum(values) / len(values))
    found = SecondOpinion(model="other").score(tiny_llama, candidates)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    half = SecondOpinion(model="other", weight=0.5).score(tiny_llama, candidates)
    own = LogProbability().score(tiny_llama, candidates)
    torch.testing.assert_close(torch.tensor(half), (torch.tensor(found) + torch.tensor(own)) / 2)


def test_log_probability_by_token_or_in_all(tiny_llama: LanguageModel) -> None:
    candidate = Candidate([1], "x", (1, 2, 3, 4), -8.0, True)
    assert LogProbability().score(tiny_llama, [candidate]) == [-2.0]
    assert LogProbability(mean=False).score(tiny_llama, [candidate]) == [-8.0]
    assert LogProbability().score(tiny_llama, [Candidate([1], "", (), 0.0, False)]) == [0.0]
