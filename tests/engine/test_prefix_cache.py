"""Prompts that begin alike: the text is that of an engine without memory, and what is shared is not read again."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_together import POLICIES
from tokloom import Engine, Sampling
from tokloom.engine.forward import new_store, prefill
from tokloom.engine.prefix_cache import PrefixCache
from tokloom.errors import ArgumentError
from tokloom.kv.store import KVStore
from tokloom.methods.attention.dense import Dense
from tokloom.models.language_model import LanguageModel

START = "one two three four five six seven eight nine ten " * 3
PROMPTS = [START + end for end in ("eleven", "twelve one two", "eleven", "seven", "eleven and more of it")]
SHORT = Sampling(max_new_tokens=8)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_text_is_the_same_and_less_is_read(name: str, family: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    plain = Engine(model, attention=POLICIES[name], prefill_chunk=16)
    engine = Engine(model, attention=POLICIES[name], prefill_chunk=16, prefix_bytes=10**8)
    for turn, prompt in enumerate(PROMPTS):
        expected, found = (e.generate(prompt, sampling=SHORT) for e in (plain, engine))
        assert found.tokens == expected.tokens
        rows = [r.ledger.row("attention") for r in (expected, found)]
        reused = rows[1].counts["reused"]
        whole = turn == 2
        assert reused == (0 if turn == 0 else found.prompt_tokens if whole else reused // 16 * 16)
        assert reused > 0 or turn < 2  # the second prompt shows where prompts part
        assert rows[1].forward_passes == rows[0].forward_passes - -(-reused // 16)
        assert {k: rows[0].counts[k] for k in ("seen", "held", "evicted")} == {
            k: rows[1].counts[k] for k in ("seen", "held", "evicted")
        }
        assert rows[1].counts["attended"] <= rows[0].counts["attended"]
        assert 0 < rows[1].counts["prefix_bytes"] <= 10**8


def stores(model: LanguageModel, count: int, tokens: int = 32) -> list[tuple[list[int], KVStore, torch.Tensor]]:
    made = []
    for i in range(count):
        text = [10 + i] * tokens
        store = new_store(model, Dense(), 0)
        *_, (_, logits) = prefill(model, store, text, 16)
        made.append((text, store, logits))
    return made


def test_the_limit_holds_and_the_longest_unused_leaves(tiny_llama: LanguageModel) -> None:
    made = stores(tiny_llama, 4)
    one = made[0][1].bytes + made[0][2].nbytes
    cache = PrefixCache(3 * one)
    for text, store, logits in made[:3]:
        cache.put("k", text, store, logits)
    assert cache.find("k", made[0][0], 16) is not None  # used: now the second one is the oldest
    cache.put("k", *made[3])
    assert cache.bytes == 3 * one
    assert [cache.find("k", text, 16) is not None for text, _, _ in made] == [True, False, True, True]
    tiny = PrefixCache(one - 1)
    tiny.put("k", *made[0])
    assert tiny.bytes == 0


def test_only_whole_chunks_or_the_same_prompt_are_used(tiny_llama: LanguageModel) -> None:
    text, store, logits = stores(tiny_llama, 1, 20)[0]
    cache = PrefixCache(10**8)
    cache.put("k", text, store, logits)
    assert cache.find("k", text, 16) is not None
    assert cache.find("k", [*text, 7], 16) is None  # would go through the model in other chunks
    assert cache.find("k", [*text, 7], 10) is not None
    assert cache.find("k", text[:-1], 16) is None
    assert cache.find("other", text, 16) is None


def test_a_snapshot_is_planned_where_prompts_part() -> None:
    cache = PrefixCache(0)
    assert cache.plan("k", range(100), 16) == {100, 96}
    assert cache.plan("k", [*range(50), *range(7)], 16) == {57, 48}
    assert cache.plan("k", [*range(70), 3] + [5] * 29, 16) == {100, 96, 64, 48}
    assert cache.plan("j", range(100), 16) == {100, 96}


def test_a_bad_limit_is_named(tiny_llama: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="prefix_bytes=-1"):
        Engine(tiny_llama, prefix_bytes=-1)
