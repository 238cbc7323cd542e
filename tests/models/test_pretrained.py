"""Loading from a directory: equal to transformers' own loading, and typed errors for what can't be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPTNeoXConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
)

from tests import tiny_models
from tokloom.errors import ModelNotFoundError, NotCausalLMError, UnsupportedModelError
from tokloom.models.language_model import LanguageModel
from tokloom.models.pretrained import check_causal, load_pretrained, map_weights


def qwen2() -> LanguageModel:
    """Biases in attention, tied embeddings."""
    tokenizer = tiny_models.chat_tokenizer()
    config: Any = Qwen2Config(**tiny_models.shape(tokenizer, 2), tie_word_embeddings=True)
    return LanguageModel("tiny-qwen2", tiny_models.random_model(Qwen2ForCausalLM, config), tokenizer)


def tied_gemma3() -> LanguageModel:
    return tiny_models.build_gemma3(tied=True)


FAMILIES = [tiny_models.build_llama, tiny_models.build_gemma3, tied_gemma3, tiny_models.build_qwen3, qwen2]


def saved(model: LanguageModel, directory: Path) -> Path:
    model.model.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def llama_dir(tmp_path: Path, tiny_llama: LanguageModel) -> Path:
    return saved(tiny_llama, tmp_path / "llama")


def load(directory: Path, dtype: torch.dtype | None = torch.float32) -> PreTrainedModel:
    return load_pretrained(str(directory), str(directory), local=True, dtype=dtype)[0]


def mapped(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel | None:
    return map_weights(directory, AutoConfig.from_pretrained(directory), dtype)


def shared(model: PreTrainedModel) -> set[frozenset[str]]:
    """Which parameters are one and the same."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in names.values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", FAMILIES, ids=lambda build: build.__name__)
def test_mapped_weights_equal_from_pretrained(
    build: Callable[[], LanguageModel], dtype: torch.dtype, tmp_path: Path
) -> None:
    directory = saved(build(), tmp_path)
    expected: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model: Any = mapped(directory, dtype)
    assert model is not None
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(model, kind)()), dict(getattr(expected, kind)())
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype, name
            assert ours[name].device == tensor.device, name
            assert ours[name].requires_grad == tensor.requires_grad, name
            assert torch.equal(ours[name], tensor), name
    assert shared(model) == shared(expected)
    assert type(model) is type(expected)
    assert [module.training for module in model.modules()] == [module.training for module in expected.modules()]
    assert model.config.to_dict() == expected.config.to_dict()
    assert model.config._attn_implementation == expected.config._attn_implementation == "sdpa"
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    tokens = torch.arange(3, 33).unsqueeze(0)
    assert torch.equal(model(tokens).logits, expected(tokens).logits)
    generated = [each.generate(tokens, max_new_tokens=4, do_sample=False) for each in (model, expected)]
    assert torch.equal(*generated)


def test_weights_are_mapped_not_read(llama_dir: Path) -> None:
    """The parameters lie in the file's mapping: they are pages of the file, not copies of it."""
    model = mapped(llama_dir)
    assert model is not None
    maps = Path("/proc/self/maps").read_text()
    ranges = [line.split()[0].split("-") for line in maps.splitlines() if str(llama_dir) in line]
    for parameter in model.parameters():
        assert any(int(start, 16) <= parameter.data_ptr() < int(end, 16) for start, end in ranges)


def test_the_loaded_model_is_the_saved_one(llama_dir: Path, tiny_llama: LanguageModel) -> None:
    model, tokenizer = load_pretrained("x", str(llama_dir), local=True, dtype=torch.float32)
    for name, tensor in tiny_llama.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert tokenizer("one two").input_ids == tiny_llama.tokenizer("one two").input_ids


def shards(directory: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="50KB")


def stale_index(directory: Path) -> None:
    shards(directory)
    shutil.copy(next(directory.glob("model-00001-*")), directory / "model.safetensors")


def base_names(directory: Path) -> None:
    """Names that transformers translates: without the prefix of the base model."""
    tensors = load_file(directory / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("change", [shards, stale_index, base_names], ids=lambda change: change.__name__)
def test_what_can_not_be_mapped_is_left_to_transformers(
    change: Callable[[Path], None], llama_dir: Path, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(llama_dir)
    assert mapped(llama_dir) is None
    if change is stale_index:
        return  # transformers prefers the single file, and that one is not whole
    state = load(llama_dir).state_dict()
    for name, tensor in tiny_llama.model.state_dict().items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize(("setting", "value"), [("quantization_config", {"quant_method": "gptq"}), ("adapter", None)])
def test_quantized_weights_and_adapters_are_never_mapped(llama_dir: Path, setting: str, value: object) -> None:
    config = AutoConfig.from_pretrained(llama_dir)
    if setting == "adapter":
        (llama_dir / "adapter_config.json").write_text("{}")
    else:
        setattr(config, setting, value)
    assert map_weights(llama_dir, config, torch.float32) is None


def test_the_checkpoints_own_dtype(tmp_path: Path) -> None:
    model = tiny_models.build_llama()
    weights: Any = model.model
    weights.half()
    saved(model, tmp_path)
    assert load(tmp_path, None).dtype == torch.float16
    assert load(tmp_path, torch.float32).dtype == torch.float32


def edit_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def only_gguf(directory: Path) -> None:
    no_config(directory)
    (directory / "some.gguf").write_bytes(b"GGUF")


def broken_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def bad_value(directory: Path) -> None:
    edit_config(directory, hidden_size="many")


def unknown_type(directory: Path) -> None:
    edit_config(directory, model_type="nonsense")


def no_tokenizer(directory: Path) -> None:
    for file in directory.glob("tokenizer*"):
        file.unlink()


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def cut_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lost_tensors(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (no_config, ModelNotFoundError, r"no config\.json.*save_pretrained.*smollm2-135m"),
        (only_gguf, ModelNotFoundError, r"no config\.json.*It holds some\.gguf: pass that file"),
        (broken_config, ModelNotFoundError, r"the config in .* can't be read: .*not a valid JSON"),
        (bad_value, ModelNotFoundError, r"the config in .* can't be read: .*hidden_size"),
        (unknown_type, UnsupportedModelError, r"doesn't know its architecture.*nonsense.*smollm2-135m"),
        (no_tokenizer, ModelNotFoundError, r"the tokenizer in .* can't be read"),
        (no_weights, ModelNotFoundError, r"the weights in .* can't be read: .*model\.safetensors"),
        (cut_weights, ModelNotFoundError, r"the weights in .* can't be read: SafetensorError"),
        (lost_tensors, NotCausalLMError, r"lacks 1 tensors \(model\.layers\.1\.mlp\.up_proj\.weight\).*random"),
        (wrong_shape, ModelNotFoundError, r"model\.norm\.weight has shape \(3,\) in its weights, but \(48,\)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_is_missing_or_damaged_is_named(
    damage: Callable[[Path], None], error: type[Exception], says: str, llama_dir: Path
) -> None:
    damage(llama_dir)
    with pytest.raises(error, match=rf"(?s)model='{llama_dir}' .*{says}"):
        load(llama_dir)


def test_encoders_and_classifiers_are_no_causal_models(tmp_path: Path, tiny_llama: LanguageModel) -> None:
    bert: Any = BertForMaskedLM(BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ))  # fmt: skip
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(
        NotCausalLMError, match=r"is not a causal language model: .*BertForMaskedLM.*Expected a decoder"
    ):
        load(tmp_path / "bert")
    make: Any = LlamaForSequenceClassification
    classifier = make(tiny_llama.model.config)
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(NotCausalLMError, match="LlamaForSequenceClassification"):
        load(tmp_path / "classifier")
    whole: Any = tiny_llama.model
    whole.base_model.save_pretrained(tmp_path / "base")
    with pytest.raises(NotCausalLMError, match="says that it is a LlamaModel"):
        load(tmp_path / "base")


def test_configs_without_architectures() -> None:
    config: Any
    for config, problem in ((BertConfig(), "is an encoder"), (T5Config(), "no decoder alone")):
        with pytest.raises(NotCausalLMError, match=problem):
            check_causal("x", config)
    for config in (GPTNeoXConfig(), Qwen2Config(), BertConfig(is_decoder=True)):
        check_causal("x", config)
