"""The draft model against itself, a rewound cache against a fresh one, and drafts in another vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.drafter import DraftRequest
from tokloom.errors import CompositionError
from tokloom.methods.decode.draft_model import DraftModel, DraftModelState
from tokloom.models.language_model import LanguageModel
from tokloom.models.translation import translate

PROMPT = "one two three four five six seven one two three"


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_the_target_as_its_own_draft_is_always_right(family: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    engine = Engine(model, drafter="draft_model:depth=4,threshold=0")
    always_draft(engine)
    result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=31))
    assert result.tokens == Engine(model).generate(PROMPT, sampling=Sampling(max_new_tokens=31)).tokens
    row = result.ledger.row("decode")
    assert row.forward_passes == 6
    assert row.counts["rejected"] == 0


def test_its_cache_goes_back_to_what_the_texts_share(tiny_llama: LanguageModel) -> None:
    state = DraftModel().start(tiny_llama)
    texts = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9, 10, 11], [5, 6, 20, 21], [5, 6], [30, 31, 32], [30, 31, 32]]
    for text in texts:
        logits = state.after(text)
        assert state.tokens == text
        with torch.inference_mode():
            truth = tiny_llama.model(torch.tensor([text])).logits[0, -1:]
        torch.testing.assert_close(logits, truth, atol=1e-5, rtol=1e-4)


def test_a_walk_gives_what_the_model_says_after_each_path(tiny_llama: LanguageModel) -> None:
    state = DraftModel(candidates=5).start(tiny_llama)
    text = [5, 6, 7]
    walk = state.open(DraftRequest(text, 9, None))  # type: ignore[arg-type]
    found = {(): walk.root()}
    level1 = [(0, 10), (0, 11)]
    found |= dict(zip([(10,), (11,)], walk.expand(level1), strict=True))
    found |= dict(zip([(10, 12), (11, 12), (11, 13)], walk.expand([(1, 12), (2, 12), (2, 13)]), strict=True))
    for path, followers in found.items():
        with torch.inference_mode():
            probabilities = tiny_llama.model(torch.tensor([[*text, *path]])).logits[0, -1].softmax(-1)
        best = probabilities.topk(5)
        assert followers.tokens.tolist() == best.indices.tolist()
        np.testing.assert_allclose(followers.probabilities, best.values.numpy(), rtol=1e-3)
    assert state.store.seen == 3


@pytest.mark.parametrize("pair", [("tiny_llama", "tiny_gemma3"), ("tiny_gemma3", "tiny_llama")])
def test_another_vocabulary_changes_no_text(
    pair: tuple[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = (request.getfixturevalue(name) for name in pair)
    monkeypatch.setattr(DraftModel, "load", lambda self, target: draft)
    for sampling in (Sampling(max_new_tokens=20), Sampling(max_new_tokens=20, temperature=1, seed=4)):
        engine = Engine(target, drafter=DraftModel(threshold=0))
        always_draft(engine)
        result = engine.generate(PROMPT, sampling=sampling)
        assert result.tokens == Engine(target).generate(PROMPT, sampling=sampling).tokens
        assert result.ledger.row("decode").counts["drafted"] > 0


def test_a_text_is_the_same_in_the_other_vocabulary(tiny_llama: LanguageModel, tiny_gemma3: LanguageModel) -> None:
    text = "one two three\n naïve <|im_end|> café"
    for target, draft in ((tiny_llama, tiny_gemma3), (tiny_gemma3, tiny_llama)):
        assert not DraftModelState(DraftModel(), target, draft).same
        own = translate(target.encode(text), target.vocabulary, draft)
        assert b"".join(draft.vocabulary.token_bytes[token] for token in own).decode() == text


def test_special_tokens_keep_their_names(tiny_chat_llama: LanguageModel, tiny_qwen3: LanguageModel) -> None:
    tokens = tiny_chat_llama.chat_tokens([{"role": "user", "content": "one two"}])
    assert translate(tokens, tiny_chat_llama.vocabulary, tiny_qwen3) == tokens  # the tokenizers are the same


def test_a_tree_needs_one_vocabulary(tiny_llama: LanguageModel, tiny_gemma3: LanguageModel) -> None:
    state = DraftModelState(DraftModel(), tiny_llama, tiny_gemma3)
    with pytest.raises(CompositionError, match="one vocabulary"):
        state.check_tree(Engine(tiny_llama)._predict(4))


@pytest.mark.model
def test_effect_a_coarser_copy_is_mostly_right(smollm2: LanguageModel) -> None:
    """The model in int8 drafts for the exact one: two tokens a pass at least, the same text."""
    prompt, sampling = "The capital of France is", Sampling(max_new_tokens=48)
    engine = Engine(smollm2, drafter="draft_model:model=smollm2-135m,weights=int8")
    always_draft(engine)
    drafted = engine.generate(prompt, sampling=sampling)
    assert drafted.tokens == Engine(smollm2).generate(prompt, sampling=sampling).tokens
    assert drafted.ledger.row("decode").forward_passes <= len(drafted.tokens) / 2
