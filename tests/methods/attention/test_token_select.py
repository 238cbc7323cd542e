"""TokenSelect against its formula written out query by query, and its effect on a real model."""

from __future__ import annotations

import pytest
import torch

from tests.attention import reference
from tests.attention.test_attend import reference_logits, some_tokens, step_at
from tokloom import Engine, Sampling
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.errors import SpecError
from tokloom.kv.store import Step
from tokloom.methods.attention.token_select import TokenSelect
from tokloom.models.language_model import LanguageModel

POLICY = {"budget": 20, "sink": 3, "local": 6}


def brute_force_visible(prompt: int, similarity: float):  # type: ignore[no-untyped-def]
    """Who is seen, written from the formula: dense within the prompt, then per query with the selection cache."""
    cache: dict[int, tuple[torch.Tensor, set[int]]] = {}

    def visible(layer: int, i: int, q: torch.Tensor, k: torch.Tensor) -> set[int]:
        if i < prompt or i + 1 <= POLICY["budget"]:
            return set(range(i + 1))
        flat = q.flatten()
        if layer in cache and torch.cosine_similarity(flat, cache[layer][0], 0) >= similarity:
            middle = cache[layer][1]
        else:
            candidates = range(POLICY["sink"], i - POLICY["local"] + 1)
            votes = dict.fromkeys(candidates, 0.0)
            for head in range(q.shape[0]):
                scores = torch.stack([q[head] @ k[head, j] for j in candidates]) * q.shape[-1] ** -0.5
                for j, weight in zip(candidates, scores.softmax(0), strict=True):
                    votes[j] += float(weight)
            size = POLICY["budget"] - POLICY["sink"] - POLICY["local"]
            middle = set(sorted(votes, key=lambda j: -votes[j])[:size])
            cache[layer] = (flat, middle)
        local = set(range(i - POLICY["local"] + 1, i + 1))
        return set(range(POLICY["sink"])) | middle | local

    return visible


@pytest.mark.parametrize("similarity", [2.0, 0.3])
def test_steps_equal_the_formula(tiny_llama: LanguageModel, similarity: float) -> None:
    """Single steps after a dense prompt of one chunk; similarity 2 never reuses a selection, 0.3 often does."""
    tokens = some_tokens(tiny_llama, 44)
    reference.register("formula", brute_force_visible(30, similarity))
    tiny_llama.model.set_attn_implementation("formula")
    expected = reference_logits(tiny_llama, tokens)
    store = new_store(tiny_llama, TokenSelect(**POLICY, similarity=similarity, index="keys"), 0)
    for _ in prefill(tiny_llama, store, tokens[:30], 64):
        pass
    for i in range(30, 44):
        logits = forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=True)
        torch.testing.assert_close(logits[0], expected[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("similarity", [2.0, 0.3])
def test_a_tree_is_lossless_under_selection(tiny_llama: LanguageModel, similarity: float) -> None:
    policy = TokenSelect(**POLICY, similarity=similarity, index="keys")
    tokens = some_tokens(tiny_llama, 46)
    single, tree = new_store(tiny_llama, policy, 0), new_store(tiny_llama, policy, 0)
    for store in (single, tree):
        for _ in prefill(tiny_llama, store, tokens[:38], 64):
            pass
    expected = [
        forward(tiny_llama, single, [tokens[i]], step_at(tiny_llama, i), all_logits=True)[0] for i in range(38, 46)
    ]
    for start in (38, 42):  # two trees, so that the second builds on what the first left
        rows, parents, positions, path = [tokens[start]], [-1], [start], [0]
        for depth, token in enumerate(tokens[start + 1 : start + 4], 1):
            above = path[-1]
            rows += [(token + 1) % 100 + 5, token]
            parents += [above, above]
            positions += [start + depth] * 2
            path.append(len(rows) - 1)
        step = Step(tuple(positions), tiny_llama.device, parents=tuple(parents))
        logits = forward(tiny_llama, tree, rows, step, all_logits=True)
        for depth, row in enumerate(path):
            torch.testing.assert_close(logits[row], expected[start - 38 + depth], atol=1e-4, rtol=1e-4)
        tree.accept(path)


@pytest.mark.parametrize("chunk", [5, 16, 64])
def test_full_budget_is_dense(tiny_llama: LanguageModel, chunk: int) -> None:
    tokens = some_tokens(tiny_llama, 50)
    expected = reference_logits(tiny_llama, tokens)
    store = new_store(tiny_llama, TokenSelect(budget=200), 0)
    *_, (_, logits) = prefill(tiny_llama, store, tokens, chunk)
    torch.testing.assert_close(logits, expected[-1], atol=1e-4, rtol=1e-4)


def test_counts_are_those_of_the_budget(tiny_llama: LanguageModel) -> None:
    store = new_store(tiny_llama, TokenSelect(**POLICY, similarity=2.0), 0)
    tokens = some_tokens(tiny_llama, 40)
    for _ in prefill(tiny_llama, store, tokens[:30], 64):
        pass
    before = store.pairs()["attended"]
    for i in range(30, 40):
        forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=True)
    config = tiny_llama.model.config
    attended = store.pairs()["attended"] - before
    assert attended == 10 * POLICY["budget"] * config.num_key_value_heads * config.num_hidden_layers
    assert store.slots()["held"] == 40


def test_a_prompt_chunk_attends_to_the_budget_and_itself(tiny_llama: LanguageModel) -> None:
    store = new_store(tiny_llama, TokenSelect(**POLICY, similarity=2.0, prompt_budget=0), 0)
    for _ in prefill(tiny_llama, store, some_tokens(tiny_llama, 80), 40):
        pass
    config = tiny_llama.model.config
    own = 40 * 41 // 2
    chosen = 40 * (POLICY["budget"] - 1)  # the chunk's first token takes the local window's last place
    heads = config.num_key_value_heads * config.num_hidden_layers
    assert store.pairs()["attended"] == heads * (own + chosen + own)


def test_budget_below_sink_and_local_is_refused() -> None:
    with pytest.raises(SpecError, match="token_select:budget=80"):
        TokenSelect(budget=80, sink=16, local=64)


@pytest.mark.model
def test_effect_reads_a_needle_that_h2o_loses(smollm2: LanguageModel, alice: str) -> None:
    """A number in the middle of the prompt is read back with a tenth of the tokens attended."""
    hay = alice[20000:23600]
    prompt = f"{hay[:1800]} The magic number of the garden is 7315. {hay[1800:]}\nThe magic number of the garden is"
    budget = 96
    scores = {
        spec: Engine(smollm2, attention=spec).score(prompt, " 7315")
        for spec in ("dense", f"token_select:budget={budget},sink=4,local=32", f"h2o:budget={budget},interval=8")
    }
    dense, selected, evicted = scores.values()
    digits = slice(1, None)  # the first token is the space
    assert max(dense.ranks[digits]) == 0
    assert max(selected.ranks[digits]) == 0
    assert sum(evicted.logprobs[digits]) < sum(selected.logprobs[digits]) - 2
    counts = selected.ledger.row("attention").counts
    assert counts["held"] == counts["seen"]
    counts = selected.ledger.row("decode").counts
    assert counts["attended"] < 0.12 * counts["attendable"]


@pytest.mark.model
def test_with_token_recycling_the_text_stays_the_same(smollm2: LanguageModel, alice: str) -> None:
    prompt, sampling = alice[20000:21000], Sampling(max_new_tokens=48)
    spec = "token_select:budget=128,sink=4,local=32"
    plain = Engine(smollm2, attention=spec).generate(prompt, sampling=sampling)
    drafted = Engine(smollm2, attention=spec, drafter="token_recycling").generate(prompt, sampling=sampling)
    assert drafted.tokens == plain.tokens
