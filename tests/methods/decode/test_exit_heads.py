"""Exit heads: regression and descent against the formula, the file, and what can't be fitted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny_models
from tokloom.engine.forward import forward, new_store
from tokloom.errors import ArgumentError, ArtifactError, DocumentError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.decode._exit_heads import exits, fit, normalised
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack


@pytest.fixture(scope="module")
def text(alice: str) -> str:
    return alice[2000:8000]


def states(model: LanguageModel, text: str) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        out = model.model(torch.tensor([model.encode(text)[:512]]), output_hidden_states=True)
    return tuple(hidden[0] for hidden in out.hidden_states)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_regression_comes_near_the_last_layer(family: str, text: str, tmp_path: Path) -> None:
    """Without descent: least squares onto the last layer's direction, written out."""
    model = getattr(tiny_models, f"build_{family}")()
    fit(tmp_path / "exits", model, [text], [1, 2], steps=0)
    hidden = states(model, text)
    norm = model.model.model.norm
    for layer, part in exits(tmp_path / "exits", model).items():
        adapted = part.model.model.norm
        with torch.inference_mode():
            raw = norm(hidden[layer]) - hidden[-1]
            mapped = adapted(hidden[layer]) - hidden[-1]
        assert mapped.square().mean() < 0.8 * raw.square().mean()
        assert torch.equal(adapted.adapter(hidden[layer]), torch.nn.functional.linear(
            normalised(hidden[layer]), adapted.adapter.weight, adapted.adapter.bias))  # fmt: skip


def test_descent_lowers_the_divergence(text: str, tiny_qwen3: LanguageModel, tmp_path: Path) -> None:
    tokens = tiny_qwen3.encode(text)[:512]
    step = Step(tuple(range(len(tokens))), tiny_qwen3.device, prompt=True)
    whole = forward(tiny_qwen3, new_store(tiny_qwen3, Dense(), 0), tokens, step, all_logits=True).softmax(-1)
    losses = []
    for steps in (0, 60):
        fit(tmp_path / f"{steps}", tiny_qwen3, [text], [1], steps=steps)
        part = exits(tmp_path / f"{steps}", tiny_qwen3)[1]
        says = forward(part, new_store(tiny_qwen3, Dense(), 0), tokens, step, all_logits=True).log_softmax(-1)
        losses.append(float(-(whole * says).sum(-1).mean()))
    assert losses[1] < losses[0]


def test_packed_and_plain_weights_give_the_same_heads(text: str, tmp_path: Path) -> None:
    plain, packed = tiny_models.build_llama(), tiny_models.build_llama()
    pack(packed.model, "fp32")
    for name, model in (("plain", plain), ("packed", packed)):
        fit(tmp_path / name, model, [text], [2], steps=3)
    one, other = (exits(tmp_path / name, m)[2] for name, m in (("plain", plain), ("packed", packed)))
    assert other.fused is not None
    torch.testing.assert_close(
        one.model.model.norm.adapter.weight, other.model.model.norm.adapter.weight, atol=2e-3, rtol=2e-3
    )


def test_what_can_not_be_fitted_or_read_is_refused(
    text: str, tiny_llama: LanguageModel, tiny_qwen3: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="layers="):
        fit(tmp_path / "exits", tiny_llama, [text], [3])
    with pytest.raises(DocumentError, match="too few tokens"):
        fit(tmp_path / "exits", tiny_llama, ["one"], [1])
    with pytest.raises(ArgumentError, match="tokloom prepare s2d:exits="):
        exits(tmp_path / "exits", tiny_llama)
    (tmp_path / "other").write_bytes(b"not a file of tensors")
    with pytest.raises(ArtifactError, match="exit heads"):
        exits(tmp_path / "other", tiny_llama)
    save_file({"weight": torch.zeros(1)}, tmp_path / "other")  # as version 1 was
    with pytest.raises(ArtifactError, match=r"exit heads \(version 2\).*tokloom prepare s2d:exits="):
        exits(tmp_path / "other", tiny_llama)
    with pytest.raises(ArgumentError, match=r"^exits=.*can be written"):
        fit(tmp_path / "other" / "exits", tiny_llama, [text], [1])
    fit(tmp_path / "exits", tiny_llama, [text], [1], steps=1)
    with pytest.raises(ArtifactError, match=r"for model tiny-qwen3.*found model tiny-llama"):
        exits(tmp_path / "exits", tiny_qwen3)
