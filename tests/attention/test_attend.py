"""The engine's store and attention function against transformers' own, on Llama-, Gemma- and Qwen-type models."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokloom.attention.attend import attention_weights
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.errors import UnsupportedModelError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.models.language_model import LanguageModel

FAMILIES = ("tiny_llama", "tiny_gemma3", "tiny_qwen3")


def reference_logits(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """All logits of transformers' own dense attention without a cache, (tokens, vocabulary)."""
    with torch.inference_mode():
        return model.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def some_tokens(model: LanguageModel, count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, model.vocabulary.size, (count,), generator=generator).tolist()


def step_at(model: LanguageModel, position: int) -> Step:
    return Step((position,), model.device)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> LanguageModel:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_and_steps_equal_transformers(family: LanguageModel, chunk: int) -> None:
    tokens = some_tokens(family, 40)
    expected = reference_logits(family, tokens)
    store = new_store(family, Dense(), 0)
    for done, logits in prefill(family, store, tokens[:30], chunk):
        torch.testing.assert_close(logits, expected[done - 1], atol=1e-4, rtol=1e-4)
    for i in range(30, 40):
        logits = forward(family, store, [tokens[i]], step_at(family, i), all_logits=True)
        torch.testing.assert_close(logits[0], expected[i], atol=1e-4, rtol=1e-4)
    assert store.seen == 40


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_tree_row_equals_its_path_alone(
    tiny_llama: LanguageModel, tiny_gemma3: LanguageModel, data: st.DataObject
) -> None:
    """Whatever the tree: a row's logits are those of the text along its path, and what is kept serves the next pass."""
    model = data.draw(st.sampled_from([tiny_llama, tiny_gemma3]))
    past = data.draw(st.integers(1, 20))
    nodes = data.draw(st.integers(1, 8))
    parents = [-1, *(data.draw(st.integers(0, i)) for i in range(nodes))]
    text, rows = some_tokens(model, past, 1), some_tokens(model, nodes + 1, 2)
    store = new_store(model, Dense(), 0)
    for _ in prefill(model, store, text, 8):
        pass
    paths: list[list[int]] = []
    for row, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), row])
    positions = tuple(past + len(path) - 1 for path in paths)
    logits = forward(model, store, rows, Step(positions, model.device, parents=tuple(parents)), all_logits=True)
    for row, path in enumerate(paths):
        expected = reference_logits(model, text + [rows[r] for r in path])[-1]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)
    accepted = data.draw(st.sampled_from(paths))
    store.accept(accepted)
    kept = text + [rows[r] for r in accepted]
    assert store.seen == len(kept)
    after = forward(model, store, [7], step_at(model, len(kept)), all_logits=True)[0]
    torch.testing.assert_close(after, reference_logits(model, [*kept, 7])[-1], atol=1e-4, rtol=1e-4)


def test_sliding_layers_drop_what_their_window_has_left(tiny_gemma3: LanguageModel) -> None:
    tokens = some_tokens(tiny_gemma3, 200)
    expected = reference_logits(tiny_gemma3, tokens)
    store = new_store(tiny_gemma3, Dense(), 0)
    *_, (_, logits) = prefill(tiny_gemma3, store, tokens, 50)
    torch.testing.assert_close(logits, expected[-1], atol=1e-4, rtol=1e-4)
    held = [layer.count for layer in store.layers]
    assert max(held) == 200
    assert min(held) < 100


def test_bytes_are_those_of_the_tensors(tiny_llama: LanguageModel) -> None:
    store = new_store(tiny_llama, Dense(), 0)
    for _ in prefill(tiny_llama, store, some_tokens(tiny_llama, 33), 16):
        pass
    store.shrink(3)
    config = tiny_llama.model.config
    slots = 36
    per_slot = config.num_key_value_heads * (2 * config.head_dim * 4 + 4)  # fp32 keys and values, int32 position
    assert store.bytes == config.num_hidden_layers * slots * per_slot


def test_dense_attends_to_every_pair(tiny_llama: LanguageModel) -> None:
    store = new_store(tiny_llama, Dense(), 0)
    for _ in prefill(tiny_llama, store, some_tokens(tiny_llama, 21), 8):
        pass
    config = tiny_llama.model.config
    pairs = 21 * 22 // 2 * config.num_key_value_heads * config.num_hidden_layers
    assert store.pairs()["attended"] == store.pairs()["attendable"] == pairs


def test_transformers_own_generate_still_works(tiny_llama: LanguageModel) -> None:
    """Loading a model into an engine must not change it for other users."""
    tokens = torch.tensor([some_tokens(tiny_llama, 12)])
    tiny_llama.model.set_attn_implementation("sdpa")
    before = tiny_llama.model.generate(tokens, max_new_tokens=8, do_sample=False)
    new_store(tiny_llama, Dense(), 0)
    assert tiny_llama.model.config._attn_implementation == "tokloom"
    after = tiny_llama.model.generate(tokens, max_new_tokens=8, do_sample=False)
    assert before.tolist() == after.tolist()


def test_a_model_that_bypasses_the_interface_is_refused(tiny_llama: LanguageModel) -> None:
    store = new_store(tiny_llama, Dense(), 0)
    for _ in prefill(tiny_llama, store, [5, 6, 7], 8):
        pass
    store.layers[1].tally.attendable = 0  # as if the layer had called an attention of its own
    with pytest.raises(UnsupportedModelError, match="layer 1"):
        store.check_attended("some-model")


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_attention_weights_against_one_pair_at_a_time(softcap: float | None) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 6, 8)
    mask = torch.rand(1, 1, 3, 6) < 0.6
    mask[..., 0] = True
    weights = attention_weights(query, key, mask, 0.3, softcap)
    for head in range(4):
        for row in range(3):
            scores = torch.full((6,), -torch.inf)
            for slot in range(6):
                if mask[0, 0, row, slot]:
                    score = query[0, head, row] @ key[0, head // 2, slot] * 0.3
                    scores[slot] = score if softcap is None else softcap * torch.tanh(score / softcap)
            torch.testing.assert_close(weights[0, head, row], scores.softmax(0))
