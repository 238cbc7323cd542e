"""Entropy Adaptive Decoding: which model writes, by the rule written out over whole-text passes of transformers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny_models
from tests.methods.decode.test_byte_level import predicted
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.errors import CompositionError, SpecError
from tokloom.methods.decode import entropy_adaptive
from tokloom.methods.decode.entropy_adaptive import EntropyAdaptive, entropies
from tokloom.methods.decode.s2d import S2D
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.byte_vocabulary import END

PROMPT = "one two three four five six seven one two three"
OPTIONS = [(4.0, 1, 1), (4.0, 3, 4), (3.0, 5, 8), (0.0, 5, 8), (99.0, 5, 8)]
"""Threshold, window, stay."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_qwen3: LanguageModel) -> LanguageModel:
    """The name "tiny" loads the tiny Qwen, which has the vocabulary of the tiny Llama."""
    monkeypatch.setattr(entropy_adaptive, "loaded", lambda name, weights: tiny_qwen3)
    return tiny_qwen3


def by_hand(
    large: LanguageModel, small: LanguageModel, threshold: float, window: int, stay: int, new: int
) -> tuple[list[int], list[str]]:
    """Greedy text and who wrote each token; the whole text goes through a model for each token."""
    tokens = large.encode_prompt(PROMPT, chat=False)
    out: list[int] = []
    writers: list[str] = []
    seen: list[float] = []
    who, since = "small", 0
    while len(out) < new and (not out or out[-1] not in large.eos_ids):
        if since >= stay:
            mean = sum(seen[-window:]) / len(seen[-window:])
            wanted = "large" if mean > threshold else "small"
            who, since = (wanted, 0) if wanted != who else (who, since)
        model = large if who == "large" else small
        with torch.inference_mode():
            probabilities = model.model(torch.tensor([[*tokens, *out]])).logits[0, -1].double().softmax(-1)
        seen.append(float(-(probabilities * probabilities.log2()).nansum()))
        out.append(int(probabilities.argmax()))
        writers.append(who)
        since += 1
    return out, writers


@pytest.mark.parametrize(("threshold", "window", "stay"), OPTIONS)
@pytest.mark.parametrize("drafter", [None, "token_recycling"])
def test_the_rule_decides_who_writes(
    threshold: float, window: int, stay: int, drafter: str | None, tiny_llama: LanguageModel, small: LanguageModel
) -> None:
    predictor = EntropyAdaptive(small="tiny", threshold=threshold, window=window, stay=stay)
    expected, writers = by_hand(tiny_llama, small, threshold, window, stay, 40)
    engine = Engine(tiny_llama, predictor=predictor, drafter=drafter)
    if drafter is not None:
        always_draft(engine)
    for _ in range(2):
        result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=40))
        assert list(result.tokens) == expected
        counts = result.ledger.row("decode").counts
        assert counts["by the large model"] == writers.count("large")
        assert counts["by the small model"] == writers.count("small")
        assert counts["switches"] == sum(one != other for one, other in pairwise(writers))
    if drafter is not None and stay == 8:
        assert counts["drafted"] > 0


def test_both_extremes(tiny_llama: LanguageModel, small: LanguageModel) -> None:
    """Never above the threshold: the small model's text, and the large one reads nothing."""
    sampling = Sampling(max_new_tokens=30)
    engine = Engine(tiny_llama, predictor=EntropyAdaptive(small="tiny", threshold=99))
    alone = Engine(small).generate(PROMPT, sampling=sampling)
    result = engine.generate(PROMPT, sampling=sampling)
    assert result.tokens == alone.tokens
    assert result.ledger.row("attention").kv_bytes == alone.ledger.row("attention").kv_bytes


def written_by_hand(
    models: dict[str, LanguageModel], threshold: float, window: int, stay: int, new: int
) -> tuple[list[int], list[str]]:
    """As `by_hand` over bytes, whose chances each model gives for the whole text anew."""
    out: list[int] = []
    writers: list[str] = []
    seen: list[float] = []
    who, since = "small", 0
    while len(out) < new and not (out and out[-1] == END):
        if since >= stay:
            mean = sum(seen[-window:]) / len(seen[-window:])
            wanted = "large" if mean > threshold else "small"
            who, since = (wanted, 0) if wanted != who else (who, since)
        rows, _ = predicted(models[who], PROMPT, bytes(out))
        probabilities = rows[-1].double().softmax(-1)
        seen.append(float(-(probabilities * probabilities.log2()).nansum()))
        out.append(int(probabilities.argmax()))
        writers.append(who)
        since += 1
    return out, writers


@pytest.mark.parametrize("pair", [("tiny_llama", "tiny_gemma3"), ("tiny_gemma3", "tiny_llama")])
@pytest.mark.parametrize("drafter", [None, "suffix_automaton"])
def test_models_of_different_tokenizers_take_turns_over_bytes(
    pair: tuple[str, str], drafter: str | None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads prompt and text in its own tokens; the ledger has the bytes of each."""
    large, small = (request.getfixturevalue(name) for name in pair)
    monkeypatch.setattr(entropy_adaptive, "loaded", lambda name, weights: small)
    predictor = EntropyAdaptive(small="tiny", base="byte_level", threshold=2.0, window=3, stay=4)
    expected, writers = written_by_hand({"large": large, "small": small}, 2.0, 3, 4, 20)
    assert {"large", "small"} == set(writers)
    engine = Engine(large, predictor=predictor, drafter=drafter)
    if drafter is not None:
        always_draft(engine)
    for _ in range(2):
        result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=20))
        assert list(result.tokens) == expected
        counts = result.ledger.row("decode").counts
        assert counts["by the large model"] == writers.count("large")
        assert counts["by the small model"] == writers.count("small")


def test_scoring_tells_who_predicted(tiny_llama: LanguageModel, small: LanguageModel) -> None:
    engine = Engine(tiny_llama, predictor=EntropyAdaptive(small="tiny", threshold=4.0, window=2, stay=2))
    score = engine.score(PROMPT, " four five six seven eight")
    counts = score.ledger.row("decode").counts
    assert counts["by the large model"] + counts["by the small model"] == len(score.tokens)


@pytest.mark.parametrize("attention", ["dense", "h2o:budget=24,interval=4"])
def test_seeded_sampling_is_the_same_with_drafts(
    attention: str, tiny_llama: LanguageModel, small: LanguageModel
) -> None:
    predictor = EntropyAdaptive(small="tiny", threshold=4.0, window=3, stay=6)
    sampling = Sampling(max_new_tokens=40, temperature=1.1, top_p=0.9, seed=3)
    alone = Engine(tiny_llama, attention=attention, predictor=predictor).generate(PROMPT, sampling=sampling)
    engine = Engine(tiny_llama, attention=attention, predictor=predictor, drafter="token_recycling")
    always_draft(engine)
    for _ in range(2):
        assert engine.generate(PROMPT, sampling=sampling).tokens == alone.tokens


@given(st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=30))
def test_entropy_is_in_bits(scores: list[float]) -> None:
    p = torch.tensor(scores, dtype=torch.float64).softmax(-1)
    expected = float(-(p * p.log2()).nansum())
    assert entropies(torch.tensor([scores]))[0] == pytest.approx(expected, abs=1e-6)


def test_uniform_and_certain() -> None:
    assert entropies(torch.tensor([[1.0] * 8, [0.0] + [-torch.inf] * 7])) == pytest.approx([3.0, 0.0])


def test_what_can_not_work_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="entropy_adaptive:small=None"):
        Engine(tiny_llama, predictor="entropy_adaptive").generate(PROMPT)
    with pytest.raises(SpecError, match="not given together with exits"):
        EntropyAdaptive(small="a", exits="b")
    gemma = tiny_models.build_gemma3()
    monkeypatch.setattr(entropy_adaptive, "loaded", lambda name, weights: gemma)
    with pytest.raises(CompositionError, match="base=byte_level"):
        Engine(tiny_llama, predictor="entropy_adaptive:small=tiny").generate(PROMPT)


def test_an_exit_as_the_small_model(alice: str, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    S2D(exits=str(tmp_path / "exits"), layers=(1, 2), steps=1).prepare(tiny_llama, [alice[2000:6000]])
    predictor = EntropyAdaptive(exits=str(tmp_path / "exits"), threshold=99)
    result = Engine(tiny_llama, predictor=predictor).generate(PROMPT, sampling=Sampling(max_new_tokens=12))
    assert result.ledger.row("decode").counts["by the small model"] == len(result.tokens)


@pytest.mark.model
def test_effect_a_higher_threshold_asks_the_large_model_less(
    smollm2: LanguageModel, alice: str, tmp_path: Path
) -> None:
    """SmolLM2 with its own exit after 24 of 30 layers: the higher the threshold, the fewer tokens by the whole model,
    and between the extremes both write."""
    S2D(exits=str(tmp_path / "exits"), layers=(24,), steps=0).prepare(smollm2, [alice[5000:9000]])
    shares = []
    for threshold in (0.0, 2.5, 20.0):
        spec = f"entropy_adaptive:exits={tmp_path / 'exits'},threshold={threshold},stay=2,window=2"
        result = Engine(smollm2, predictor=spec).generate(alice[60000:60300], sampling=Sampling(max_new_tokens=24))
        shares.append(result.ledger.row("decode").counts["by the large model"] / len(result.tokens))
    assert shares[0] > 0.9
    assert 0 < shares[1] < shares[0]
    assert shares[2] == 0
