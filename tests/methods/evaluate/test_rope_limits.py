"""Scores of rotated pairs against rotation by hand, and how they fare in longer contexts."""

from __future__ import annotations

import math

import pytest
import torch

from tokloom import Engine
from tokloom.methods.evaluate.rope_limits import RopeLimits, scores, unrotated
from tokloom.models.language_model import LanguageModel


def rotate(vector: torch.Tensor, position: int, frequencies: torch.Tensor) -> torch.Tensor:
    """As Llama does it, pair (i, i + d / 2) by pair."""
    out, half = vector.clone(), len(vector) // 2
    for i, f in enumerate(frequencies.tolist()):
        c, s = math.cos(position * f), math.sin(position * f)
        out[i] = vector[i] * c - vector[i + half] * s
        out[i + half] = vector[i + half] * c + vector[i] * s
    return out


def test_scores_are_those_of_rotated_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    q, k = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    seen_q, seen_k = rotate(q, 9, frequencies), rotate(k, 4, frequencies)
    product = (
        unrotated(seen_q[None], torch.tensor([9]), frequencies)
        * unrotated(seen_k[None], torch.tensor([4]), frequencies).conj()
    )
    for distance in (0, 3, 500):
        expected = rotate(q, distance + 7, frequencies) @ rotate(k, 7, frequencies)
        torch.testing.assert_close(scores(product, torch.tensor([distance]), frequencies)[0], expected)


@pytest.mark.parametrize("build", ["tiny_llama", "tiny_gemma3"])
def test_the_same_seed_gives_the_same_figures(build: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(build)
    task = RopeLimits(length=40, windows=1, draws=16)
    (example,) = task.examples(model)
    first, second = (task.run(Engine(model), example).scores for _ in range(2))
    assert first == second
    assert all(0 <= value <= 1 for value in first.values())


@pytest.mark.model
def test_effect_longer_contexts_are_nearer_to_chance(smollm2: LanguageModel) -> None:
    found = {}
    for context in (16, 1024, 65536):
        task = RopeLimits(context=context, windows=1, length=128)
        (example,) = task.examples(smollm2)
        found[context] = task.run(Engine(smollm2), example).scores
    consistency = [found[context]["consistency"] for context in (16, 1024, 65536)]
    assert consistency == sorted(consistency, reverse=True)
    assert consistency[0] > 0.85
    assert consistency[2] < 0.65
    assert found[1024]["locality"] > 0.7
    assert found[65536]["locality"] < 0.55
