"""Self-speculation: the text is the dense one's, and the store is left as it was found."""

from __future__ import annotations

import pytest
import torch

from tests.attention.test_attend import some_tokens, step_at
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.drafter import DraftRequest
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.engine.prediction import PlainPrediction
from tokloom.engine.request_context import RequestContext
from tokloom.errors import CompositionError, SpecError
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.tidal_decode import TidalDecode
from tokloom.methods.attention.token_select import TokenSelect
from tokloom.models.language_model import LanguageModel

SPEC = 'self_speculation:attention="token_select:budget=24,sink=2,local=8",min_context=1,threshold=0,depth=5'


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_text_equals_plain_decoding(tiny_llama: LanguageModel, temperature: float) -> None:
    sampling = Sampling(max_new_tokens=30, temperature=temperature, seed=3)
    prompt = tiny_llama.decode(some_tokens(tiny_llama, 60))
    plain = Engine(tiny_llama).generate(prompt, sampling=sampling)
    engine = Engine(tiny_llama, drafter=SPEC)
    always_draft(engine)
    drafted = engine.generate(prompt, sampling=sampling)
    assert drafted.tokens == plain.tokens
    assert drafted.ledger.row("decode").counts["drafted"] > 0


@torch.inference_mode()
def test_a_trial_leaves_the_store_as_it_was(tiny_gemma3: LanguageModel) -> None:
    """Keys, values and logits after drafting passes equal those without; sliding windows included."""
    tokens = some_tokens(tiny_gemma3, 90)
    policy = TokenSelect(budget=24, sink=2, local=8)
    stores = [new_store(tiny_gemma3, Dense(), 0) for _ in range(2)]
    for store in stores:
        for _ in prefill(tiny_gemma3, store, tokens[:60], 32):
            pass
    tried, other = stores
    for at in range(60, 90):
        with tried.trying(policy):
            for ahead in range(6):
                forward(tiny_gemma3, tried, [tokens[at % 7 + ahead]], step_at(tiny_gemma3, at + ahead), all_logits=True)
        assert tried.seen == other.seen == at
        logits = [forward(tiny_gemma3, s, [tokens[at]], step_at(tiny_gemma3, at), all_logits=True) for s in stores]
        assert torch.equal(*logits)
    for layer, same in zip(tried.layers, other.layers, strict=True):
        assert torch.equal(layer.positions, same.positions)
        assert torch.equal(layer.keys, same.keys)
        assert layer.tally.attended == same.tally.attended


def test_drafts_are_what_the_sparse_model_says(tiny_llama: LanguageModel) -> None:
    """The drafted chain is greedy decoding under the selecting policy from the dense store."""
    tokens = some_tokens(tiny_llama, 60)
    engine = Engine(tiny_llama, drafter=SPEC)
    assert engine._drafting is not None
    state = engine._drafting.state
    policy = TokenSelect(budget=24, sink=2, local=8)
    host = RequestContext(tiny_llama, Dense(), 20, kv=None, prefill_chunk=64)
    prediction = PlainPrediction(host)
    prediction.prefill(tokens[:-1], lambda done: None)
    tree = state.propose(DraftRequest(tokens, 5, prediction))
    assert len(tree) == 5
    store = new_store(tiny_llama, Dense(), 0)
    for _ in prefill(tiny_llama, store, tokens[:-1], 64):
        pass
    for layer in store.layers:
        layer.policy = policy
    store.policy = policy
    text = list(tokens)
    for _ in range(5):
        logits = forward(tiny_llama, store, [text[-1]], step_at(tiny_llama, len(text) - 1), all_logits=True)
        text.append(int(logits[0].argmax()))
    assert list(tree.tokens) == text[60:]


def test_refusals(tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="attention"):
        Engine(tiny_llama, drafter="self_speculation:attention=h2o")
    with pytest.raises(SpecError, match="attention"):
        Engine(tiny_llama, drafter="self_speculation:attention=dense")
    with pytest.raises(CompositionError, match="rewinding"):
        Engine(tiny_llama, attention="h2o:budget=32", drafter=SPEC)


def test_layers_that_are_handed_a_choice_draft_too(tiny_llama: LanguageModel) -> None:
    """TidalDecode hands choices from layer to layer within a pass; under a trial as well."""
    policy = TidalDecode(budget=24, sink=2, local=8, layers=(0,))
    tokens = some_tokens(tiny_llama, 60)
    store = new_store(tiny_llama, Dense(), 0)
    for _ in prefill(tiny_llama, store, tokens, 64):
        pass
    with store.trying(policy):
        forward(tiny_llama, store, [1], step_at(tiny_llama, 60), all_logits=True)
        attended = [layer.tally.attended for layer in store.layers]
    assert attended[1] < attended[0]
