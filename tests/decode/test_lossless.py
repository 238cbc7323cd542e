"""Every drafter leaves the text as it is: greedy, seeded, and in distribution, with every filter and a grammar."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.decode.chi_square import check
from tests.methods.decode.test_token_recycling import always_draft
from tests.test_every_method import prepared
from tests.tiny_models import build_qwen3
from tokloom import Engine, Sampling, registry
from tokloom.decode.constraint import Constraint
from tokloom.engine.sampling import filtered
from tokloom.models.language_model import LanguageModel

DRAFTERS = [name for name in registry.names("decode") if registry.card(name).kind == "Drafter"]
OTHERS = [
    "dyspec:by_level=false,threshold=0",
    "dyspec:source=draft_model",
    "aded:source=draft_model,searches=6",
    'merged:parts=["prompt_lookup","dyspec","token_recycling"]',
    'merged:parts=["draft_model","merged"]',
]
PROMPT = "one two three four five one two three four five one two"
GRAMMAR = 'regex:pattern="( (one|two|three)){3}"'
FILTERS = {
    "temperature": Sampling(max_new_tokens=3, temperature=0.8),
    "top_p": Sampling(max_new_tokens=3, temperature=1.0, top_p=0.7),
    "min_p": Sampling(max_new_tokens=3, temperature=1.5, min_p=0.2),
    "grammar": Sampling(max_new_tokens=3, temperature=2.0),
}


@pytest.fixture(scope="module")
def small() -> LanguageModel:
    """Logits that leave a few likely tokens at each place, so that a few hundred draws show their distribution."""
    model = build_qwen3()
    with torch.no_grad():
        model.model.model.norm.weight.mul_(2.0)
    return model


@pytest.mark.parametrize("drafter", [*DRAFTERS, *OTHERS])
@pytest.mark.parametrize("constraint", [None, GRAMMAR, 'regex:pattern="[a-z ]{0,30}!"'])
def test_same_text_greedy_and_seeded(
    drafter: str, constraint: str | None, small: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = prepared(drafter, small) if drafter in DRAFTERS else drafter
    for sampling in (
        Sampling(max_new_tokens=24),
        Sampling(max_new_tokens=24, temperature=1.2, top_k=9, top_p=0.9, seed=1),
        Sampling(max_new_tokens=24, temperature=1.2, min_p=0.05, seed=2, stop=(" two",)),
    ):
        plain = Engine(small).generate(PROMPT, sampling=sampling, constraint=constraint)
        engine = Engine(small, drafter=made)
        always_draft(engine)
        for _ in range(2):
            drafted = engine.generate(PROMPT, sampling=sampling, constraint=constraint)
            assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text)
            assert drafted.stop_reason == plain.stop_reason


def distribution(model: LanguageModel, sampling: Sampling, sentences: set[bytes] | None) -> dict[str, float]:
    """Chance of every output of three tokens: the model's own, multiplied step by step, without any engine.

    Where a constraint makes tokens certain, they have chance 1."""
    start = registry.build(GRAMMAR, Constraint, "constraint").start(model.vocabulary) if sentences is not None else None
    tokens = model.encode_prompt(PROMPT, chat=False)
    spelled = model.vocabulary.token_bytes
    found: dict[str, float] = {}

    def walk(text: tuple[int, ...], probability: float) -> None:
        if len(text) == 3 or (text and text[-1] in model.eos_ids):
            found[str(text)] = found.get(str(text), 0.0) + probability
            return
        forced = []
        if start is not None:
            matcher = start.fork()
            for token in text:
                matcher.accept(token)
            forced = matcher.forced()
        if forced:
            walk((*text, forced[0]), probability)
            return
        with torch.inference_mode():
            logits = model.model(torch.tensor([[*tokens, *text]])).logits[0, -1].float()
        if sentences is not None:
            written = b"".join(spelled[token] for token in text)
            rest = {sentence[len(written) :] for sentence in sentences if sentence.startswith(written)}
            may = [t for t, piece in enumerate(spelled) if piece and any(left.startswith(piece) for left in rest)]
            may += model.eos_ids if b"" in rest else ()
            keep = torch.zeros(len(logits), dtype=torch.bool)
            keep[may] = True
            logits = logits.masked_fill(~keep, -torch.inf)
        values, ids = filtered(logits, sampling)
        for share, token in zip(values.softmax(-1, dtype=torch.float64).tolist(), ids.tolist(), strict=True):
            if probability * share > 2e-4:
                walk((*text, token), probability * share)

    walk((), 1.0)
    return found


LOW = {
    "self_speculation": "self_speculation:min_context=0,threshold=0,depth=2",
    "draft_model": "draft_model:threshold=0,depth=2",
}
"""Options with which a drafter drafts after so short a prompt, however unsure it is."""


@pytest.fixture(scope="module")
def probabilities(small: LanguageModel) -> dict[str, dict[str, float]]:
    """What must be expected under each filter."""
    sentences = {b"".join(words) for words in product([b" one", b" two", b" three"], repeat=3)}
    return {
        name: distribution(small, sampling, sentences if name == "grammar" else None)
        for name, sampling in FILTERS.items()
    }


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_samples_follow_the_models_distribution(
    drafter: str,
    small: LanguageModel,
    probabilities: dict[str, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chi-square of 120 outputs of three tokens against their exact chances, under each filter; seeds differ between
    drafters."""
    monkeypatch.chdir(tmp_path)
    made = prepared(drafter, small) if drafter == "s2d" else LOW.get(drafter, drafter)
    if drafter == "s2d":
        made = replace(made, threshold=0.0, length=2)
    engine = Engine(small, drafter=made)
    always_draft(engine)
    first, accepted = 1000 * DRAFTERS.index(drafter), 0
    for name, sampling in FILTERS.items():
        results = engine.sample(
            PROMPT, n=120, sampling=replace(sampling, seed=first), constraint=GRAMMAR if name == "grammar" else None,
            at_once=50,
        )  # fmt: skip
        accepted += sum(result.ledger.row("decode").counts["accepted"] for result in results)
        check(probabilities[name], Counter(str(result.tokens) for result in results))
    assert accepted > 0  # drafts were used
