"""Best-of-N: its candidates are the samples of the seeds, its choice the verifier's."""

from __future__ import annotations

import pytest

from tests.decode.searching import next_logprobs
from tokloom import Engine, Sampling
from tokloom.errors import ArgumentError
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five six seven"


def _samples(model: LanguageModel, prompt: str, n: int) -> list[str]:
    sampling = [Sampling(max_new_tokens=10, temperature=1.0, seed=5 + i) for i in range(n)]
    return [Engine(model).generate(prompt, sampling=each).text for each in sampling]


def test_gives_the_sample_that_the_function_likes_best(tiny_llama: LanguageModel) -> None:
    prompt = PROMPT
    samples = _samples(tiny_llama, prompt, 6)
    assert len({len(text) for text in samples}) > 1
    for value in (len, lambda text: -len(text), lambda text: text.count("e")):
        engine = Engine(tiny_llama, search="best_of:n=6", verifier=value)
        result = engine.generate(prompt, sampling=Sampling(max_new_tokens=10, temperature=1.0, seed=5))
        assert result.text == max(samples, key=value)


def test_the_score_rises_with_n(tiny_llama: LanguageModel) -> None:
    prompt = PROMPT
    sampling = Sampling(max_new_tokens=10, temperature=1.0, seed=5)
    found = [Engine(tiny_llama, search=f"best_of:n={n}").generate(prompt, sampling=sampling) for n in (1, 4, 16)]
    means = []
    for result in found:
        text = tiny_llama.encode(prompt)
        values = []
        for token in result.tokens:
            values.append(float(next_logprobs(tiny_llama, text)[token]))
            text = [*text, token]
        means.append(sum(values) / len(values))
    assert means[0] <= means[1] + 1e-3
    assert means[1] <= means[2] + 1e-3
    assert means[0] < means[2]


def test_branches_share_their_passes(tiny_llama: LanguageModel) -> None:
    prompt = PROMPT
    engine = Engine(tiny_llama, search="best_of:n=5")
    row = engine.generate(prompt, sampling=Sampling(max_new_tokens=10, temperature=1.0, seed=5)).ledger.row("decode")
    assert row.forward_passes <= 9
    assert row.counts["rows"] > row.forward_passes
    assert row.counts["judged"] == 5


@pytest.mark.parametrize("score", [None, "high", float("nan")])
def test_a_function_that_gives_no_number_is_named(score: object, tiny_llama: LanguageModel) -> None:
    engine = Engine(tiny_llama, search="best_of:n=2", verifier=lambda text: score)  # type: ignore[arg-type,return-value]
    with pytest.raises(ArgumentError, match=r"^verifier=.*a number"):
        engine.generate("one two", sampling=Sampling(max_new_tokens=2))
