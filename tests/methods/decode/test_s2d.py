"""S2D: each drafted token against sub-models that read the whole text; the text against plain decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.drafter import DraftRequest
from tokloom.engine.forward import forward, new_store
from tokloom.engine.prediction import PlainPrediction
from tokloom.engine.request_context import RequestContext
from tokloom.errors import ArgumentError, SpecError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.decode._exit_heads import exits
from tokloom.methods.decode.s2d import S2D, most_probable
from tokloom.models.language_model import LanguageModel
from tokloom.models.submodel import submodel

PROMPT = "one two three four five six seven one two three four five six seven one two three"


@pytest.fixture(scope="module")
def heads(alice: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """Exit heads of the tiny models, after each layer but the last."""
    found = {}
    for family in ("tiny_llama", "tiny_gemma3"):
        model: LanguageModel = request.getfixturevalue(family)
        layers = tuple(range(1, model.model.config.num_hidden_layers))
        found[family] = tmp_path_factory.mktemp("exits") / family
        S2D(exits=str(found[family]), layers=layers, steps=10).prepare(model, [alice[2000:8000]])
    return found


def by_hand(model: LanguageModel, heads: Path, text: list[int], threshold: float, length: int) -> list[int]:
    """The draft by sub-models that start anew for every token."""
    drafted: list[int] = []
    while len(drafted) < length:
        for part in exits(heads, model).values():
            tokens = [*text, *drafted]
            step = Step(tuple(range(len(tokens))), model.device)
            logits = forward(part, new_store(model, Dense(), 0), tokens, step, all_logits=False)[-1]
            token = int(logits.argmax())
            if float(logits.softmax(-1)[token]) >= threshold:
                drafted.append(token)
                break
        else:
            break
    return drafted


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@pytest.mark.parametrize("threshold", [0.0, 0.15, 0.3, 0.9])
def test_the_draft_is_that_of_fresh_submodels(
    family: str, threshold: float, heads: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    """And the request's store is afterwards as it was."""
    model: LanguageModel = request.getfixturevalue(family)
    tokens = model.encode_prompt(PROMPT, chat=False)
    prediction = PlainPrediction(RequestContext(model, Dense(), 20, kv=None, prefill_chunk=16))
    prediction.prefill(tokens[:-1], lambda done: None)
    kept = [(layer.seen, layer.count, layer.keys.clone()) for layer in prediction.store.layers]
    state = S2D(exits=str(heads[family]), threshold=threshold, length=5).start(model)
    tree = state.propose(DraftRequest(tokens, 20, prediction))
    assert list(tree.tokens) == by_hand(model, heads[family], tokens, threshold, 5)
    assert list(tree.probabilities) == sorted(tree.probabilities, reverse=True)
    for layer, (seen, count, keys) in zip(prediction.store.layers, kept, strict=True):
        assert (layer.seen, layer.count) == (seen, count)
        assert torch.equal(layer.keys, keys)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@pytest.mark.parametrize("attention", ["dense", "h2o:budget=24,interval=4"])
def test_the_text_is_that_of_plain_decoding(
    family: str, attention: str, heads: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    for sampling, constraint in (
        (Sampling(max_new_tokens=40), None),
        (Sampling(max_new_tokens=40, temperature=1.1, top_p=0.9, seed=3), None),
        (Sampling(max_new_tokens=24, temperature=1.2, seed=6), 'regex:pattern="(one |two three ){2,6}[a-z]*!"'),
    ):
        plain = Engine(model, attention=attention).generate(PROMPT, sampling=sampling, constraint=constraint)
        engine = Engine(model, attention=attention, drafter=S2D(exits=str(heads[family]), threshold=0.1))
        always_draft(engine)
        for _ in range(2):
            drafted = engine.generate(PROMPT, sampling=sampling, constraint=constraint)
            assert drafted.tokens == plain.tokens
        counts = drafted.ledger.row("decode").counts
        if constraint is None:
            assert (counts["drafted"] > 0) == (attention == "dense")  # what H2O saw can't be taken back


def test_rates_go_into_a_file(heads: dict[str, Path], tiny_llama: LanguageModel) -> None:
    options = S2D(exits=str(heads["tiny_llama"]))
    one, other = options.start(tiny_llama), options.start(tiny_llama)
    one.rates.add(3, True)  # type: ignore[attr-defined]
    other.restore(one.arrays())
    assert other.rates.rate(3) == one.rates.rate(3)  # type: ignore[attr-defined]


def test_confidence_is_a_probability() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
    token, confidence = most_probable(logits)
    assert token == int(logits.argmax())
    assert confidence == pytest.approx(float(logits.softmax(-1).max()), rel=1e-5)


def test_bad_options_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="s2d:layers"):
        S2D(exits="x", layers=(4, 2))
    with pytest.raises(ArgumentError, match="tokloom prepare s2d"):
        Engine(tiny_llama, drafter="s2d:exits=nowhere")


@pytest.mark.model
def test_effect_fitted_exits_draft_right(smollm2: LanguageModel, alice: str, tmp_path: Path) -> None:
    """An exit after 12 of 30 layers, fitted to 1,500 tokens of a book, says on another page of it what the model says
    more than twice as often as those layers without the fit (the control). Its drafts are accepted, the text is the
    same."""
    options = S2D(exits=str(tmp_path / "exits"), layers=(12,), steps=0, threshold=0.3, length=3)
    options.prepare(smollm2, [alice[5000:11000]])
    page = smollm2.encode(alice[60000:61000])
    step = Step(tuple(range(len(page))), smollm2.device, prompt=True)
    parts = (smollm2, exits(options.exits, smollm2)[12], submodel(smollm2, range(12)))
    whole, fitted, unfitted = (
        forward(part, new_store(smollm2, Dense(), 0), page, step, all_logits=True).argmax(-1) for part in parts
    )
    assert (fitted == whole).float().mean() > 0.2
    assert (fitted == whole).sum() > 2 * (unfitted == whole).sum()
    sampling = Sampling(max_new_tokens=16)
    plain = Engine(smollm2).generate(alice[60000:60300], sampling=sampling)
    engine = Engine(smollm2, drafter=options)
    always_draft(engine)
    drafted = engine.generate(alice[60000:60300], sampling=sampling)
    assert drafted.tokens == plain.tokens
    assert drafted.ledger.row("decode").counts["accepted"] > 0
