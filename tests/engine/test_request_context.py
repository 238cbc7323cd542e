"""Hidden states against transformers' own, with and without a policy's hooks; stores of second models; rewinding."""

from __future__ import annotations

import pytest
import torch

from tests import tiny_models
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import Job
from tokloom.engine.request_context import RequestContext
from tokloom.errors import ArgumentError, CompositionError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.h2o import H2O
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack

TOKENS = [5, 9, 12, 7, 31, 18, 40, 22, 11, 8, 17, 26]


def host(model: LanguageModel, policy: AttentionPolicy | None = None, chunk: int = 5) -> RequestContext:
    return RequestContext(model, policy or Dense(), 16, kv=None, prefill_chunk=chunk)


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen3"])
def pair(request: pytest.FixtureRequest) -> tuple[LanguageModel, LanguageModel]:
    """A model through transformers' modules, and the same one fused."""
    build = getattr(tiny_models, f"build_{request.param}")
    plain, fused = build(), build()
    pack(fused.model, "fp32")
    assert plain.fused is None
    assert fused.fused is not None
    return plain, fused


@pytest.mark.parametrize("policy", [Dense(), H2O(budget=64, interval=4)], ids=["dense", "h2o"])
def test_hidden_states_are_transformers_own(pair: tuple[LanguageModel, LanguageModel], policy: AttentionPolicy) -> None:
    """Of the embeddings, of every layer and of the normed last one; the prompt in chunks, then a pass of two rows."""
    plain, _ = pair
    with torch.inference_mode():
        truth = plain.model(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
    layers = len(truth) - 1
    for model in pair:
        for layer in range(-layers - 1, layers + 1):
            own = host(model, policy)
            store = own.open(len(TOKENS))
            read = own.prefill(store, TOKENS[:-2], hidden_layer=layer)
            step = Step((len(TOKENS) - 2, len(TOKENS) - 1), model.device)
            new = own.forward(store, TOKENS[-2:], step, hidden_layer=layer)
            torch.testing.assert_close(torch.cat([read.hidden, new.hidden]), truth[layer][0], atol=2e-5, rtol=2e-4)


def test_asking_for_hidden_states_changes_no_logits(pair: tuple[LanguageModel, LanguageModel]) -> None:
    for model in pair:
        seen = []
        for layer in (None, 1):
            own = host(model)
            store = own.open(len(TOKENS))
            own.prefill(store, TOKENS, hidden_layer=layer)
            step = Step((12, 13, 13), model.device, parents=(-1, 0, 0))
            seen.append(own.forward(store, [3, 4, 5], step, hidden_layer=layer))
        assert torch.equal(seen[0].logits, seen[1].logits)
        assert seen[0].hidden.numel() == 0
        assert seen[1].hidden.shape == (3, 48)


def test_a_layer_that_there_is_not_is_refused(tiny_llama: LanguageModel) -> None:
    own = host(tiny_llama)
    with pytest.raises(ArgumentError, match=r"hidden_layer=4.*\[-4, 3\]"):
        own.prefill(own.open(4), TOKENS[:4], hidden_layer=4)


def test_progress_and_logits_of_the_prompt(tiny_llama: LanguageModel) -> None:
    told: list[int] = []
    own = host(tiny_llama)
    logits = own.prefill(own.open(len(TOKENS)), TOKENS, told.append).logits
    assert told == [5, 10, 12]
    with torch.inference_mode():
        truth = tiny_llama.model(torch.tensor([TOKENS])).logits[0, -1]
    torch.testing.assert_close(logits[0], truth, atol=1e-5, rtol=1e-4)


def test_a_second_model_shares_the_account(tiny_llama: LanguageModel, tiny_qwen3: LanguageModel) -> None:
    own = host(tiny_llama)
    other = own.beside(tiny_qwen3)
    own.prefill(own.open(4), TOKENS[:4])
    other.prefill(other.open(6), TOKENS[:6])
    assert [store.seen for store in own.stores] == [4, 6]
    assert other.stores is own.stores


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_a_rewound_store_goes_on_as_if_nothing_had_been(family: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    text = [3 + i * 7 % 40 for i in range(100)]
    fresh, own = host(model), host(model)
    for seen in (0, 1, 40, 95, 100):
        store = own.open(len(text))
        own.prefill(store, text)
        left = store.rewind(seen)
        assert left == store.seen
        assert left == seen or (family == "tiny_gemma3" and left == 0)  # its windows have dropped what 40 needs
        assert all(layer.count <= left for layer in store.layers)
        again = fresh.open(len(text))
        if left:
            fresh.prefill(again, text[:left])
        step = Step((left, left + 1), model.device)
        torch.testing.assert_close(
            own.forward(store, [5, 6], step).logits, fresh.forward(again, [5, 6], step).logits, atol=1e-5, rtol=1e-4
        )


def test_a_policy_that_evicts_can_not_be_rewound(tiny_llama: LanguageModel) -> None:
    own = host(tiny_llama, H2O(budget=24, interval=4))
    store = own.open(len(TOKENS))
    own.prefill(store, TOKENS)
    with pytest.raises(CompositionError, match="h2o"):
        store.rewind(3)


def test_skipped_rows_have_no_logits_and_change_no_others(pair: tuple[LanguageModel, LanguageModel]) -> None:
    """Of one sequence, of several together, of none of the rows; with hidden states."""
    for model in pair:
        own = host(model)
        outputs = []
        for skipped in (0, 2, 4):
            store = own.open(len(TOKENS))
            own.prefill(store, TOKENS[:-1])
            step = Step((11, 12, 13, 13), model.device, parents=(-1, 0, 1, 1), skipped=skipped)
            outputs.append(own.forward(store, [TOKENS[-1], 3, 4, 5], step, hidden_layer=-1))
            assert outputs[-1].logits.shape[0] == outputs[-1].hidden.shape[0] == 4 - skipped
        whole, some, _ = outputs
        torch.testing.assert_close(some.logits, whole.logits[2:], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(some.hidden, whole.hidden[2:], atol=1e-6, rtol=1e-6)
        jobs = []
        for skipped in (1, 0, 2):
            store = own.open(len(TOKENS))
            own.prefill(store, TOKENS[:-1])
            jobs.append(Job(store, [TOKENS[-1], 3], Step((11, 12), model.device, skipped=skipped)))
        shared = own.forward_many(jobs)
        assert [len(output.logits) for output in shared] == [1, 2, 0]
        torch.testing.assert_close(shared[0].logits, shared[1].logits[1:], atol=2e-5, rtol=2e-4)
