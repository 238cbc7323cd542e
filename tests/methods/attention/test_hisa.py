"""HISA against its formula: blocks first, then tokens by the host; all blocks are the host alone."""

from __future__ import annotations

import math

import pytest
import torch

from tests.attention.selecting import best, calibration, check, grouped, in_int8, votes
from tests.attention.selection.test_key_scores import of_rounded
from tests.methods.attention.test_fasa import of_all_chunks
from tests.methods.attention.test_select import LEFT, POLICY, exact
from tokloom.errors import SpecError
from tokloom.methods.attention.fasa import FASA
from tokloom.methods.attention.hisa import HISA
from tokloom.models.language_model import LanguageModel


def surviving(queries, keys, candidates, block: int, ratio: float) -> list[int]:  # type: ignore[no-untyped-def]
    """The candidates in blocks that survive: first, last, and those of the largest sum of softmaxes (means rounded)."""
    end = candidates[-1] + 1
    first, full = candidates[0] // block, end // block
    width = full + 1
    means = {i: in_int8(keys[i * block : (i + 1) * block].mean(0)) for i in range(first, full)}
    scores = dict.fromkeys(means, 0.0)
    for q in queries:
        raw = torch.stack([q @ means[i] for i in means]) * 0.25
        for i, weight in zip(means, raw.softmax(0), strict=True):
            scores[i] += float(weight)
    always = [first] + ([full] if end % block else [])
    m = min(width, max(math.ceil(ratio * width), math.ceil(LEFT / block) + 2))
    kept = (always + [i for i in best(scores, width) if i not in always])[:m]
    return [j for j in candidates if j // block in kept]


@pytest.mark.parametrize(("block", "ratio"), [(3, 0.1), (4, 0.75)])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, block: int, ratio: float) -> None:
    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        return [
            set(best(votes(q, k, surviving(q, k, candidates, block, ratio), 0.25), LEFT))
            for q, k in grouped(queries, keys)
        ]

    check(tiny_llama, HISA(**POLICY, block=block, ratio=ratio, host="select"), chosen)


def test_all_blocks_are_the_host_alone(tiny_llama: LanguageModel) -> None:
    check(tiny_llama, HISA(**POLICY, block=5, ratio=1.0, host="select"), exact)
    check(tiny_llama, HISA(**POLICY, block=5, ratio=1.0), of_rounded)


def test_a_host_that_is_calibrated(tiny_llama: LanguageModel) -> None:
    """FASA's scorer in the blocks: all of its chunks are exact, and its calibration is FASA's own."""
    policy = HISA(**POLICY, block=5, ratio=1.0, host="fasa:chunks=3")
    for mine, fasas in zip(calibration(tiny_llama, policy), calibration(tiny_llama, FASA(chunks=3)), strict=True):
        assert torch.equal(mine["dims"], fasas["dims"])
    check(tiny_llama, HISA(**POLICY, block=5, ratio=1.0, host="fasa:chunks=99"), of_all_chunks(tiny_llama))


def test_a_host_of_pages_is_refused() -> None:
    with pytest.raises(SpecError, match=r"hisa:host='quest'.*single tokens"):
        HISA(host="quest")
