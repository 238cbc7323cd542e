"""The overlap with the dense top-k."""

from __future__ import annotations

import pytest
import torch

from tokloom import Engine
from tokloom.errors import DocumentError
from tokloom.methods.evaluate.top_k_overlap import TopKOverlap, overlaps
from tokloom.models.language_model import LanguageModel


def test_against_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [torch.rand(2, 12 + i, generator=generator) < 0.4 for i in range(3)]
    dense = [torch.rand(2, 12 + i, generator=generator) for i in range(3)]
    shared, mass = [], []
    for seen, weights in zip(steps, dense, strict=True):
        for head in range(2):
            attended = {j for j in range(10) if seen[head, j]}
            best = sorted(range(10), key=lambda j: -float(weights[head, j]))[: len(attended)]
            shared.append(len(attended & set(best)) / max(1, len(attended)))
            mass.append(sum(float(weights[head, j]) for j in attended) / float(weights[head, :10].sum()))
    assert overlaps(steps, dense, 10) == (pytest.approx(sum(shared) / 6), pytest.approx(sum(mass) / 6))


@pytest.mark.parametrize("build", ["tiny_llama", "tiny_gemma3"])
def test_dense_attention_overlaps_wholly(build: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(build)
    task = TopKOverlap(prefix=60, length=6, windows=1)
    (example,) = task.examples(model)
    ones = {"overlap": pytest.approx(1), "mass": pytest.approx(1), "lowest_layer": pytest.approx(1)}
    assert task.run(Engine(model), example).scores == ones
    few = task.run(Engine(model, attention="h2o:budget=20,interval=4"), example).scores
    assert 0 < few["overlap"] < 1
    assert 0 < few["lowest_layer"] <= few["mass"] < 1


def test_a_text_too_short(tiny_llama: LanguageModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "short.txt").write_text("few words")
    with pytest.raises(DocumentError, match="fewer than"):
        list(TopKOverlap(path=str(tmp_path / "short.txt")).examples(tiny_llama))


@pytest.mark.model
def test_chosen_slots_overlap_more_than_recent_ones(smollm2: LanguageModel) -> None:
    task = TopKOverlap(prefix=300, length=4, windows=1)
    (example,) = task.examples(smollm2)
    chosen, evicted = (
        task.run(Engine(smollm2, attention=policy), example).scores["mass"]
        for policy in ("select:budget=64,local=16", "h2o:budget=64,recent=0.9")
    )
    assert chosen > evicted
