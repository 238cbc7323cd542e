"""The rotary scaling of a GGUF file reaches the model, or the file is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import tokloom
from tests.models.tiny_gguf import write_gguf
from tokloom import LanguageModel
from tokloom.errors import UnsupportedModelError


def loaded(model: LanguageModel, folder: Path, more: Callable[[Any], None], patch: pytest.MonkeyPatch) -> LanguageModel:
    patch.setenv("TOKLOOM_CACHE", str(folder / "cache"))
    return tokloom.load(str(write_gguf(model, folder / "scaled.gguf", more)), weights="torch")


def scaling(kind: gguf.RopeScalingType, **more: float) -> Callable[[Any], None]:
    def write(writer: Any) -> None:
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(4.0)
        for key, value in more.items():
            writer.add_float32(f"llama.rope.scaling.{key}", value)

    return write


def old(writer: Any) -> None:
    writer.add_float32("llama.rope.scale_linear", 4.0)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (scaling(gguf.RopeScalingType.LINEAR), {"rope_type": "linear", "factor": 4.0}),
        (old, {"rope_type": "linear", "factor": 4.0}),
        (
            scaling(gguf.RopeScalingType.YARN, yarn_beta_fast=16.0),
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0},
        ),
        (scaling(gguf.RopeScalingType.NONE), {"rope_type": "default"}),
        (lambda writer: None, {"rope_type": "default"}),
    ],
)
def test_what_the_metadata_says_is_done(
    more: Callable[[Any], None], expected: dict[str, Any], tiny_llama: LanguageModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = loaded(tiny_llama, tmp_path, more, monkeypatch)
    parameters = model.model.config.rope_parameters
    assert expected.items() <= parameters.items()
    rotary = model.model.model.rotary_emb
    if expected["rope_type"] == "linear":
        plain = 1.0 / parameters["rope_theta"] ** (torch.arange(len(rotary.inv_freq)) / len(rotary.inv_freq))
        torch.testing.assert_close(rotary.inv_freq, plain / 4.0)


@pytest.mark.parametrize(
    "more",
    [
        scaling(gguf.RopeScalingType.LONGROPE),
        scaling(gguf.RopeScalingType.YARN, attn_factor=0.7),
        lambda writer: writer.add_tensor("rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32)),
        lambda writer: writer.add_tensor("rope_factors_long.weight", np.ones(8, dtype=np.float32)),
    ],
)
def test_what_is_not_known_is_refused(
    more: Callable[[Any], None], tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedModelError, match="rotary scaling"):
        loaded(tiny_llama, tmp_path, more, monkeypatch)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_factors_of_llama_3_stand_for_its_scaling(
    factor: float, tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's converter writes the plain frequencies over the scaled ones."""
    config = tiny_llama.model.config
    half = config.head_dim // 2
    theta = config.rope_parameters["rope_theta"]
    plain = theta ** -(np.arange(half) / half)
    scaled = type(config)(
        **{**config.to_dict(), "rope_parameters": {
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }}
    )  # fmt: skip
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, torch.device("cpu"))
    factors = (plain / wanted.numpy()).astype(np.float32)
    model = loaded(tiny_llama, tmp_path, lambda w: w.add_tensor("rope_freqs.weight", factors), monkeypatch)
    assert model.model.config.rope_parameters["rope_type"] == "llama3"
    torch.testing.assert_close(model.model.model.rotary_emb.inv_freq, wanted)
