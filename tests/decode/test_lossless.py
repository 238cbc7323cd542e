"""Every drafter leaves the text as it is: greedy, seeded, and in distribution, with every filter and a grammar."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.decode.test_token_recycling import always_draft
from tests.test_every_method import prepared
from tests.tiny_models import build_qwen3
from tokloom import Engine, Sampling, registry
from tokloom.decode.stage import Constraint
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

    def walk(text: tuple[int, ...], chance: float) -> None:
        if len(text) == 3 or (text and text[-1] in model.eos_ids):
            found[str(text)] = found.get(str(text), 0.0) + chance
            return
        certain = []
        if start is not None:
            matcher = start.fork()
            for token in text:
                matcher.accept(token)
            certain = matcher.forced()
        if certain:
            walk((*text, certain[0]), chance)
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
            if chance * share > 2e-4:
                walk((*text, token), chance * share)

    walk((), 1.0)
    return found


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("drafter", ["token_recycling", "merged", "dyspec:source=draft_model"])
def test_samples_follow_the_models_distribution(filter_: str, drafter: str, small: LanguageModel) -> None:
    """Chi-square of 400 unseeded outputs of three tokens against their exact chances; rare outputs in one class."""
    sampling = FILTERS[filter_]
    sentences = None
    if filter_ == "grammar":
        sentences = {b"".join(words) for words in product([b" one", b" two", b" three"], repeat=3)}
    expected = distribution(small, sampling, sentences)
    engine = Engine(small, drafter=drafter)
    always_draft(engine)
    draws, accepted = 400, 0
    seen: Counter[str] = Counter()
    for seed in range(draws):
        chosen = Sampling(**{**vars(sampling), "seed": 1000 + seed})
        result = engine.generate(PROMPT, sampling=chosen, constraint=GRAMMAR if sentences else None)
        seen[str(result.tokens)] += 1
        counts = result.ledger.row("decode").counts
        accepted += counts["accepted"] + counts["forced"]
    assert accepted > 0  # tokens came without a pass of their own
    common = [text for text, chance in expected.items() if chance * draws >= 5]
    chances = [expected[text] for text in common]
    observed = [seen[text] for text in common]
    chances.append(1 - sum(chances))
    observed.append(draws - sum(observed))
    if chances[-1] * draws < 1:
        assert observed.pop() <= 5
        chances.pop()
    assert len(common) >= 3
    statistic = sum((o - c * draws) ** 2 / (c * draws) for o, c in zip(observed, chances, strict=True))
    freedom = len(chances) - 1
    # the 99.9th percentile by Wilson and Hilferty's approximation
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
