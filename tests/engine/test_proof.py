"""Models whose logits over the KV store are not their own are refused before use; those that are go through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tokloom import Engine, LanguageModel, Sampling
from tokloom.errors import LogitsError, TokloomError, UnsupportedModelError

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.25,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


def model_of(kind: str, like: LanguageModel, **config: Any) -> LanguageModel:
    """A random model of a type, with the tokenizer of another and every bias away from zero."""
    torch.manual_seed(3)
    vocabulary = like.model.config.vocab_size
    made = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](vocab_size=vocabulary, **{**SHAPE, **config})).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.3)
    return LanguageModel(kind, made, like.tokenizer)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"mlp_bias": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("granite", {"mlp_bias": True, "attention_multiplier": 0.5, "residual_multiplier": 0.7}),
        ("olmo2", {}),
        ("cohere", {}),
        ("phi3", {}),
        ("starcoder2", {"sliding_window": 16}),
    ],
)
def test_scores_are_those_of_the_model_alone(kind: str, config: dict[str, Any], tiny_llama: LanguageModel) -> None:
    model = model_of(kind, tiny_llama, **config)
    prompt, rest = "one two three four five six seven " * 3, "three two one"
    ids, targets = model.encode(prompt, special=True), model.encode(rest)
    with torch.inference_mode():
        alone = model.model(torch.tensor([ids + targets]), use_cache=False).logits[0].float().log_softmax(-1)
    expected = [float(alone[len(ids) - 1 + i, token]) for i, token in enumerate(targets)]
    assert Engine(model, prefill_chunk=7).score(prompt, rest).logprobs == pytest.approx(expected, abs=5e-3)
    assert model.fused is not None or model.proven


@pytest.mark.parametrize(("kind", "config"), [
    ("diffllama", {}),
    ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                   "shared_expert_intermediate_size": 24, "use_sliding_window": True, "sliding_window": 8,
                   "max_window_layers": 1}),
    ("bloom", {}),
])  # fmt: skip
def test_what_tokloom_does_not_know_is_refused_by_name(
    kind: str, config: dict[str, Any], tiny_llama: LanguageModel
) -> None:
    model = model_of(kind, tiny_llama, **config)
    with pytest.raises(UnsupportedModelError, match=type(model.model).__name__):
        Engine(model).generate("one two three", sampling=Sampling(max_new_tokens=2))


def test_angles_that_depend_on_the_length_bound_the_window(tiny_llama: LanguageModel) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    model = model_of("llama", tiny_llama, rope_parameters=rope, max_position_embeddings=64)
    assert model.window == 64
    with pytest.raises(TokloomError, match="64"):
        Engine(model).generate("one two three four " * 40, sampling=Sampling(max_new_tokens=2))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("constraint", [None, 'choices:options=["one","two"]'])
def test_logits_that_are_not_numbers_give_no_text(
    temperature: float, constraint: str | None, tiny_llama: LanguageModel
) -> None:
    model = model_of("llama", tiny_llama)
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    sampling = Sampling(max_new_tokens=3, temperature=temperature)
    with pytest.raises(LogitsError, match="nan"):
        Engine(model).generate("one", constraint=constraint, sampling=sampling)


def test_a_window_in_every_layer_and_a_policy_that_calibrates_are_refused(tiny_llama: LanguageModel) -> None:
    model = model_of("mistral", tiny_llama, sliding_window=16)
    with pytest.raises(TokloomError, match="full attention"):
        Engine(model, attention="tidal_decode").generate("one", sampling=Sampling(max_new_tokens=2))


def test_a_score_of_logits_that_are_not_numbers_is_refused(tiny_llama: LanguageModel) -> None:
    model = model_of("llama", tiny_llama)
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(LogitsError):
        Engine(model).score("one", "two")


@pytest.mark.parametrize("window", [8, 200])
def test_a_window_that_only_the_mask_of_the_model_knows_is_refused_however_long(
    window: int, tiny_llama: LanguageModel
) -> None:
    model = model_of(
        "qwen2_moe", tiny_llama, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=24, use_sliding_window=True, sliding_window=window, max_window_layers=1,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError):
        Engine(model)


def test_a_window_as_long_as_the_model_reads_hides_nothing(tiny_llama: LanguageModel) -> None:
    model = model_of(
        "qwen2_moe", tiny_llama, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=24, use_sliding_window=True, sliding_window=256, max_window_layers=1,
    )  # fmt: skip
    assert len(Engine(model).generate("one two", sampling=Sampling(max_new_tokens=2)).tokens) in (1, 2)
