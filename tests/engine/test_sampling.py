"""Sampling against transformers' own logits processors and against the distribution that they leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tokloom import Sampling
from tokloom.engine.sampling import Sampler, filtered, unpack
from tokloom.errors import ArgumentError


def reference(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits[None])
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p > 0:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return scores[0].softmax(-1)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
)
def test_filters_leave_what_transformers_leaves(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(seed)) * 3
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    values, tokens = filtered(logits, sampling)
    mine = torch.zeros(30)
    mine[tokens] = values.softmax(-1).float()
    torch.testing.assert_close(mine, reference(logits, sampling), atol=1e-4, rtol=1e-3)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -5.0])
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=1)
    sampler = Sampler(sampling)
    counts = np.bincount([sampler.draw(logits) for _ in range(4000)], minlength=6)
    expected = reference(logits.double(), sampling).numpy() * 4000
    allowed = expected > 0
    assert counts[~allowed].sum() == 0
    assert chisquare(counts[allowed], expected[allowed]).pvalue > 1e-4


def test_a_mask_is_a_filter_before_all_others() -> None:
    logits = torch.tensor([9.0, 8.0, 1.0, 0.9])
    allowed = torch.tensor([False, False, True, True])
    for sampling in (
        Sampling(),
        Sampling(temperature=1.0, top_k=2, seed=0),
        Sampling(temperature=1.0, top_p=0.1, seed=0),
    ):
        assert Sampler(sampling).draw(logits, allowed) in (2, 3)


def test_greedy_is_the_likeliest() -> None:
    for row in torch.randn(5, 40):
        assert Sampler(Sampling()).draw(row) == int(row.argmax())


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-45, 1e-320])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 20
    for filters in ({}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.1}):
        sampler = Sampler(Sampling(temperature=temperature, seed=0, **filters))
        assert {sampler.draw(logits) for _ in range(5)} == {int(logits.argmax())}


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**63, 2**64 - 1])
def test_every_seed_of_64_bits_is_taken(seed: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    logits = torch.randn(40)
    assert [Sampler(sampling).draw(logits) for _ in range(3)] == [Sampler(sampling).draw(logits)] * 3


@given(st.sets(st.integers(0, 99)))
def test_unpack_reads_the_layout_of_the_peers(allowed: set[int]) -> None:
    words = np.zeros(4, dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1) << np.uint32(token % 32)
    mask = unpack(words.view(np.int32), 100)
    assert set(mask.nonzero().flatten().tolist()) == allowed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", float("nan")), ("temperature", "hot"), ("top_p", 0), ("top_p", 1.5),
        ("min_p", 1), ("top_k", -1), ("max_new_tokens", 0), ("max_new_tokens", 2.5), ("seed", "x"), ("stop", ("",)),
        ("max_new_tokens", True), ("seed", 2**64), ("seed", -(2**63) - 1), ("stop", None), ("stop", 5), ("stop", b"x"),
    ],
)  # fmt: skip
def test_bad_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"^{field}="):
        Sampling(**{field: value})  # type: ignore[arg-type]
