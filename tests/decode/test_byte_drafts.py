"""Drafts of bytes: a pass over a tree of them says what passes byte by byte say, and no drafter changes the text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tests.decode.chi_square import check
from tests.methods.decode.test_byte_level import Twin, small
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.drafter import DraftRequest
from tokloom.errors import CompositionError
from tokloom.kv.store import Step
from tokloom.methods.decode import byte_ensemble
from tokloom.methods.decode.draft_model import DraftModel
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.byte_vocabulary import END

__all__ = ["small"]

PROMPT = "one two three four five six seven one two three fo"
TREE = [(-1, b"u"), (0, b"r"), (1, b" "), (0, b"u"), (2, b"f"), (3, b"g"), (4, b"i"), (2, b"s"), (7, b"i"), (8, b"x")]
"""Parents and bytes: "ur fi", "uug" and "ur six"."""


def begun(model: LanguageModel, spec: str):  # type: ignore[no-untyped-def]
    prediction = Engine(model, predictor=spec)._predict(64)
    tokens = model.encode_prompt(PROMPT, chat=False)
    prediction.prompt(tokens)
    prediction.prefill(tokens, lambda done: None)
    return prediction


def tree_step(model: LanguageModel) -> tuple[list[int], Step]:
    parents = tuple(parent for parent, _ in TREE)
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return [data[0] for _, data in TREE], Step(tuple(depths), model.device, parents=parents)


@pytest.fixture
def second(tiny_gemma3: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setattr(byte_ensemble, "loaded", lambda name: tiny_gemma3)
    return tiny_gemma3


@pytest.mark.parametrize("spec", ["byte_level", "byte_level:minimum=0.03", "byte_level:beam=1", "byte_ensemble"])
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_a_tree_in_one_pass_is_every_path_byte_by_byte(
    spec: str, family: str, second: LanguageModel, request: pytest.FixtureRequest
) -> None:
    """Also after a pass of which only a part was accepted."""
    model: LanguageModel = request.getfixturevalue(family)
    tokens, step = tree_step(model)
    together = begun(model, spec)
    rows = together.rows(tokens, step)
    passes = together.counts.get("read passes")
    assert passes is None or passes <= 2  # the prompt's end, and this
    for leaf in (6, 5, 9):
        path = [leaf]
        while TREE[path[0]][0] >= 0:
            path.insert(0, TREE[path[0]][0])
        alone = begun(model, spec)
        for row in path:
            expected = alone.rows([tokens[row]], Step((0,), model.device))[0]
            alone.accept([0])
            np.testing.assert_allclose(rows[row].exp(), expected.exp(), atol=2e-6)
    together.accept([0, 1, 2])
    alone = begun(model, spec)
    for byte in b"ur ":
        alone.rows([byte], Step((0,), model.device))
        alone.accept([0])
    for byte in b"six":
        expected = alone.rows([byte], Step((0,), model.device))[0]
        alone.accept([0])
        np.testing.assert_allclose(together.rows([byte], Step((0,), model.device))[0].exp(), expected.exp(), atol=2e-6)
        together.accept([0])


DRAFTERS = [
    "prompt_lookup:longest=8", "suffix_automaton", "token_recycling", "dyspec", "merged", "aded",
    "draft_model:threshold=0",
]  # fmt: skip


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("predictor", ["byte_level", "byte_level:minimum=0.02"])
def test_same_text_greedy_and_seeded(drafter: str, predictor: str, tiny_llama: LanguageModel) -> None:
    for sampling in (
        Sampling(max_new_tokens=40),
        Sampling(max_new_tokens=30, temperature=0.7, top_p=0.9, seed=2, stop=("xyz",)),
    ):
        plain = Engine(tiny_llama, predictor=predictor).generate(PROMPT, sampling=sampling)
        engine = Engine(tiny_llama, predictor=predictor, drafter=drafter)
        always_draft(engine)
        for _ in range(2):
            drafted = engine.generate(PROMPT, sampling=sampling)
            assert (drafted.text, drafted.tokens) == (plain.text, plain.tokens)
            assert drafted.stop_reason == plain.stop_reason
    assert drafted.ledger.row("decode").counts["drafted"] > 0


@pytest.mark.parametrize("pair", [("tiny_llama", "tiny_gemma3"), ("tiny_gemma3", "tiny_llama")])
def test_tokens_of_one_model_draft_bytes_of_another(
    pair: tuple[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = (request.getfixturevalue(name) for name in pair)
    monkeypatch.setattr(DraftModel, "load", lambda self, target: draft)
    sampling = Sampling(max_new_tokens=40)
    engine = Engine(target, predictor="byte_level", drafter=DraftModel(threshold=0))
    always_draft(engine)
    result = engine.generate(PROMPT, sampling=sampling)
    assert result.tokens == Engine(target, predictor="byte_level").generate(PROMPT, sampling=sampling).tokens
    assert result.ledger.row("decode").counts["drafted"] > 0


def test_a_word_that_was_begun_is_drafted_to_its_end(tiny_llama: LanguageModel) -> None:
    """The tokens of the last word go back, and the likeliest token that begins with its bytes is drafted."""
    prediction = Engine(tiny_llama, predictor="byte_level")._predict(8)
    state = DraftModel(depth=1, threshold=0).start(tiny_llama)
    tree = state.propose(DraftRequest(list(PROMPT.encode()), 30, prediction))
    table = tiny_llama.vocabulary.token_bytes
    with torch.inference_mode():
        before = tiny_llama.encode(PROMPT.removesuffix(" fo"))
        logits = tiny_llama.model(torch.tensor([before])).logits[0, -1]
    fits = [token for token, data in enumerate(table) if data.startswith(b" fo")]
    best = max(fits, key=lambda token: float(logits[token]))
    assert bytes(tree.tokens) == table[best].removeprefix(b" fo")
    assert len(tree) > 0


def test_drafts_over_an_ensemble(tiny_llama: LanguageModel, second: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=24, temperature=0.9, seed=1)
    plain = Engine(tiny_llama, predictor="byte_ensemble").generate(PROMPT, sampling=sampling)
    engine = Engine(tiny_llama, predictor="byte_ensemble", drafter="suffix_automaton")
    always_draft(engine)
    for _ in range(2):
        result = engine.generate(PROMPT, sampling=sampling)
        assert result.tokens == plain.tokens
    assert result.ledger.row("decode").counts["accepted"] > 0


def test_policies_that_evict_get_byte_by_byte(tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=12)
    spec = "h2o:budget=24,interval=4"
    plain = Engine(tiny_llama, attention=spec, predictor="byte_level").generate(PROMPT, sampling=sampling)
    engine = Engine(tiny_llama, attention=spec, predictor="byte_level", drafter="prompt_lookup")
    always_draft(engine)
    drafted = engine.generate(PROMPT, sampling=sampling)
    assert drafted.tokens == plain.tokens
    assert drafted.ledger.row("decode").counts["drafted"] == 0


@pytest.mark.parametrize(
    ("drafter", "complaint"),
    [
        ("dyspec:source=draft_model", "a prediction of bytes"),
        ("aded:source=draft_model", "a prediction of bytes"),
        ("self_speculation", "BytePrediction"),
        ('merged:parts=["prompt_lookup","self_speculation"]', "BytePrediction"),
    ],
)
def test_what_can_not_draft_bytes_is_refused_before_the_first_chunk(
    drafter: str, complaint: str, tiny_llama: LanguageModel
) -> None:
    engine = Engine(tiny_llama, predictor="byte_level", drafter=drafter)
    with pytest.raises(CompositionError, match=complaint):
        engine.stream(PROMPT)


def test_a_search_over_bytes(tiny_llama: LanguageModel) -> None:
    """Branches share the covers and the store up to where they part."""
    engine = Engine(tiny_llama, predictor="byte_level", search="best_of:n=3")
    sampling = Sampling(max_new_tokens=16, temperature=1.0, seed=5)
    found = engine.generate(PROMPT, sampling=sampling)
    alone = Engine(tiny_llama, predictor="byte_level")
    texts = [
        alone.generate(PROMPT, sampling=Sampling(max_new_tokens=16, temperature=1.0, seed=5 + i)).text for i in range(3)
    ]
    assert found.text in texts


def test_sampled_bytes_follow_sampled_tokens(small: LanguageModel) -> None:
    """Chi-square of 300 outputs of three bytes, with drafts, against tokens drawn one by one among those that the
    tokenizer can write, whose text is cut after three bytes."""
    prompt = "abca"
    root = small.encode(prompt)[:1]
    twin = Twin(small, root)
    begun = prompt.encode()[len(small.vocabulary.token_bytes[root[0]]) :]
    expected: Counter[bytes] = Counter()

    def walk(tokens: list[int], text: bytes, probability: float) -> None:
        if not (text.startswith(begun) or begun.startswith(text)):
            return
        if len(text) >= len(begun) + 3:
            expected[text[len(begun) : len(begun) + 3]] += probability
            return
        for token, share in twin.after(tokens).items():
            data = small.vocabulary.token_bytes[token]
            if data:
                walk([*tokens, token], text + data, probability * share)
            elif text.startswith(begun):
                expected[text[len(begun) :] + b"$"] += probability * share

    walk([], b"", 1.0)
    whole = sum(expected.values())
    engine = Engine(small, predictor="byte_level", drafter="draft_model:threshold=0,depth=2")
    always_draft(engine)
    seen: Counter[bytes] = Counter()
    accepted = 0
    for seed in range(300):
        result = engine.generate(prompt, sampling=Sampling(max_new_tokens=3, temperature=1.0, seed=seed))
        data = bytes(token for token in result.tokens if token < END)
        seen[data + (b"$" if result.stop_reason == "end" else b"")] += 1
        accepted += result.ledger.row("decode").counts["accepted"]
    assert accepted > 0
    check({text: probability / whole for text, probability in expected.items()}, seen)
