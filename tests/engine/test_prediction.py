"""A predictor's place in the engine: whatever it says is what is sampled, scored, drafted for and accounted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pydantic import Field

from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.prediction import Prediction, Predictor
from tokloom.engine.prediction import AdjustedPrediction, PlainPrediction
from tokloom.engine.request_context import RequestContext
from tokloom.models.language_model import LanguageModel
from tokloom.registry import method

PROMPT = "one two three four five six seven one two three"


class Sharpened(AdjustedPrediction):
    def __init__(self, host: RequestContext, layer: int, weight: float) -> None:
        super().__init__(host, layer)
        self.weight = weight
        self.counts["adjusted"] = 0

    def adjust(self, logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        assert len(logits) == len(hidden)
        self.counts["adjusted"] += len(logits)
        return logits * self.weight + hidden.mean(-1, keepdim=True) * torch.arange(logits.shape[1]).sin()


@method(stage="decode")
class Sharpen(Predictor):
    """Depends on logits and hidden states, row by row."""

    layer: int = 2
    """Whose hidden states."""
    weight: float = Field(default=0.5, gt=0)
    """Of the logits."""

    def start(self, host: RequestContext) -> Prediction:
        return Sharpened(host, self.layer, self.weight)


@method(stage="decode")
class Unchanged(Predictor):
    """The model's own prediction, asked for as if it were another."""

    def start(self, host: RequestContext) -> Prediction:
        return PlainPrediction(host)


def by_hand(model: LanguageModel, tokens: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        out = model.model(torch.tensor([list(tokens)]), output_hidden_states=True)
    hidden = out.hidden_states[2][0, -1].mean()
    adjusted: torch.Tensor = out.logits[0, -1] * 0.5 + hidden * torch.arange(out.logits.shape[-1]).sin()
    return adjusted


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@pytest.mark.parametrize("drafter", [None, "token_recycling"])
def test_greedy_text_is_that_of_the_adjusted_logits(
    family: str, drafter: str | None, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    engine = Engine(model, predictor=Sharpen(), drafter=drafter)
    if drafter is not None:
        always_draft(engine)
    result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=12))
    tokens = model.encode_prompt(PROMPT, chat=False)
    for token in result.tokens:
        assert int(by_hand(model, tokens).argmax()) == token
        tokens = [*tokens, token]
    plain = Engine(model).generate(PROMPT, sampling=Sampling(max_new_tokens=12))
    assert plain.tokens != result.tokens
    row = result.ledger.row("decode")
    assert row.counts["adjusted"] >= len(result.tokens)
    assert row.method == ("sharpen + token_recycling" if drafter else "sharpen").replace("sharpen", Sharpen.name)


@pytest.mark.parametrize("attention", ["dense", "h2o:budget=24,interval=4"])
def test_drafts_change_nothing_under_a_predictor(attention: str, tiny_llama: LanguageModel) -> None:
    for sampling, constraint in (
        (Sampling(max_new_tokens=30), None),
        (Sampling(max_new_tokens=30, temperature=1.1, min_p=0.02, seed=3), None),
        (Sampling(max_new_tokens=30, temperature=1.1, seed=3), 'regex:pattern="(one |two three ){2,6}[a-z]*!"'),
    ):
        alone = Engine(tiny_llama, attention=attention, predictor=Sharpen())
        drafted = Engine(tiny_llama, attention=attention, predictor=Sharpen(), drafter="token_recycling")
        always_draft(drafted)
        expected = alone.generate(PROMPT, sampling=sampling, constraint=constraint)
        for _ in range(2):
            assert drafted.generate(PROMPT, sampling=sampling, constraint=constraint).tokens == expected.tokens


def test_score_rates_by_the_prediction(tiny_llama: LanguageModel) -> None:
    score = Engine(tiny_llama, predictor=Sharpen()).score(PROMPT, " four five")
    tokens = tiny_llama.encode_prompt(PROMPT, chat=False)
    for token, logprob in zip(score.tokens, score.logprobs, strict=True):
        assert logprob == pytest.approx(float(by_hand(tiny_llama, tokens).log_softmax(-1)[token]), abs=1e-4)
        tokens.append(token)


def test_the_models_own_prediction_is_the_default(tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=20)
    plain, asked = Engine(tiny_llama), Engine(tiny_llama, predictor=Unchanged())
    one, other = plain.generate(PROMPT, sampling=sampling), asked.generate(PROMPT, sampling=sampling)
    assert one.tokens == other.tokens
    assert "predictor" not in one.components
    assert other.components["predictor"] == Unchanged.name
    for name in ("attention", "decode"):
        assert one.ledger.row(name).counts == other.ledger.row(name).counts
