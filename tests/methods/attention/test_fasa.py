"""FASA against its formula: contextual agreement counted by hand, scores over chosen chunks, all chunks are exact."""

from __future__ import annotations

import pytest
import torch

from tests.attention.selecting import Chosen, best, calibration, check, grouped, in_int8, prompt_read, votes
from tests.attention.test_attend import some_tokens, step_at
from tests.methods.attention.test_select import LEFT, POLICY, exact
from tokloom.engine.forward import forward
from tokloom.methods.attention.fasa import FASA, agreement, dominant
from tokloom.models.language_model import LanguageModel


def test_agreement_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, queries = torch.randn(2, 64, 8, generator=generator), torch.randn(4, 5, 8, generator=generator)
    rated = agreement(keys, queries)
    for head in range(4):
        for i in range(4):
            overlaps = []
            for q in queries[head]:
                whole = {j: float(q @ keys[head // 2, j]) for j in range(64)}
                part = {
                    j: float(q[i] * keys[head // 2, j, i] + q[i + 4] * keys[head // 2, j, i + 4]) for j in range(64)
                }
                overlaps.append(len(set(best(whole, 4)) & set(best(part, 4))) / 4)
            assert float(rated[head, i]) == pytest.approx(sum(overlaps) / 5)


def test_a_chunk_that_decides_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, queries = torch.randn(1, 200, 8, generator=generator), torch.randn(1, 9, 8, generator=generator)
    keys[..., [2, 6]] *= 20
    assert int(agreement(keys, queries)[0].argmax()) == 2


def test_every_query_head_has_a_say_in_its_dominant_chunks() -> None:
    rated = torch.tensor([[[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.1]], [[0.4, 0.3, 0.2, 0.1], [0.1, 0.9, 0.3, 0.2]]])
    assert dominant(rated, 1).tolist() == [[0], [1]]  # two firsts: the one that suits both more
    assert dominant(rated, 2).tolist() == [[0, 1], [0, 1]]  # both firsts, though 2 suits both more than 1 in the first
    assert dominant(rated, 3).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel) -> None:
    policy = FASA(**POLICY, chunks=3)
    found = calibration(tiny_llama, policy)
    dims = [part["dims"] for part in found]

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        sets = []
        for h, (q, k) in enumerate(grouped(queries, keys)):
            some = dims[layer][h]
            copy = in_int8(k[:, some] - found[layer]["centre"][h])
            sets.append(set(best(votes(q[:, some], copy, candidates, 0.25), LEFT)))
        return sets

    assert all(d.shape == (2, 6) and bool((d[:, :3] + 8 == d[:, 3:]).all()) for d in dims)
    check(tiny_llama, policy, chosen)


def test_half_of_the_chunks_by_default(tiny_llama: LanguageModel) -> None:
    assert all(found["dims"].shape == (2, 8) for found in calibration(tiny_llama, FASA(**POLICY)))  # 4 of 8 chunks


def of_all_chunks(model: LanguageModel) -> Chosen:
    """Exact top-k of keys as an index of all chunks has them: in int8, without their mean in the calibration text."""
    found = calibration(model, FASA(chunks=99))
    centres = [part["centre"].repeat_interleave(2, 0)[:, None] for part in found]

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        return exact(layer, queries, in_int8(keys - centres[layer]), candidates)

    return chosen


def test_all_chunks_are_exact(tiny_llama: LanguageModel) -> None:
    """But for the rounding of the index to int8."""
    check(tiny_llama, FASA(**POLICY, chunks=99), of_all_chunks(tiny_llama))


def test_the_copy_is_a_byte_a_dimension_and_a_scale(tiny_llama: LanguageModel) -> None:
    tokens = some_tokens(tiny_llama, 50)
    store = prompt_read(tiny_llama, FASA(**POLICY, chunks=3), tokens)
    plain = store.bytes
    forward(tiny_llama, store, [tokens[46]], step_at(tiny_llama, 46), all_logits=False)
    config = tiny_llama.model.config
    rows = config.num_hidden_layers * config.num_key_value_heads * 64  # room for 64 to begin with
    assert store.bytes - plain == rows * (6 + 4)
