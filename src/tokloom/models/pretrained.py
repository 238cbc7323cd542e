"""Loads a causal language model from a directory or a hub id, mapping its weights into memory where it can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokloom.errors import ModelError, ModelNotFoundError, NotCausalLMError, UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

T = TypeVar("T")

_BUNDLED_HINT = 'Or load a bundled model: tokloom.load("smollm2-135m").'


def load_pretrained(
    shown: str, source: str, *, local: bool, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model (on the CPU, in eval mode) and tokenizer of a directory (local) or a hub id.

    shown: what the user asked for, for messages. dtype: None is the checkpoint's own.
    Raises ModelNotFoundError, NotCausalLMError or UnsupportedModelError.
    """
    from transformers import AutoConfig, AutoTokenizer

    if local:
        _check_directory(shown, Path(source))
    config = _attempt(
        shown, source, local, "config", lambda: AutoConfig.from_pretrained(source, local_files_only=local)
    )
    check_causal(shown, config)
    tokenizer: Any = _attempt(
        shown, source, local, "tokenizer", lambda: AutoTokenizer.from_pretrained(source, local_files_only=local)
    )
    check_tokenizer(shown, tokenizer)
    model = map_weights(Path(source), config, dtype) if local and dtype is not None else None
    if model is None:
        model = _attempt(
            shown, source, local, "weights", lambda: read_weights(shown, source, config, dtype, local=local)
        )
    return model, tokenizer


def check_causal(shown: str, config: PreTrainedConfig) -> None:
    """Raises NotCausalLMError unless the config is that of a model which predicts the next token."""
    from transformers.models.auto import modeling_auto as auto

    kind, names = config.model_type, config.architectures or []
    classes = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
    causal = {classes} if isinstance(classes, str) else set(classes)
    if not causal or config.is_encoder_decoder:
        problem = f"a {kind} model is no decoder alone"
    elif names and not any(n in causal or "CausalLM" in n or "LMHead" in n or "ConditionalGen" in n for n in names):
        problem = f"its config.json says that it is a {', '.join(names)}"
    elif getattr(config, "is_decoder", None) is False and kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        problem = f"a {kind} model with is_decoder=false is an encoder: it fills gaps, it doesn't continue text"
    else:
        return
    raise NotCausalLMError(
        f"model={shown!r} is not a causal language model: {problem}. Expected a decoder such as Llama, Qwen or"
        f" Gemma with an output head. {_BUNDLED_HINT}"
    )


def check_tokenizer(shown: str, tokenizer: Any) -> None:
    """Raises UnsupportedModelError unless the tokenizer has a backend whose tokens' bytes can be read."""
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"model={shown!r} can't be used: its tokenizer, {type(tokenizer).__name__}, has no tokenizer.json."
            " Convert it once with transformers' convert_slow_tokenizer and save it beside the model."
        )


def read_weights(
    shown: str, source: str, config: PreTrainedConfig, dtype: torch.dtype | None, *, local: bool, **options: Any
) -> PreTrainedModel:
    """The model as transformers' `from_pretrained` loads it.

    Raises NotCausalLMError if weights are missing, ModelNotFoundError if they don't fit the config: transformers
    would make them random and go on.
    """
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        config=config,
        dtype=dtype or "auto",
        local_files_only=local,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, with the tensors' names
        **options,
    )
    model: PreTrainedModel = loaded[0]
    info = loaded[1]
    if unfit := sorted(info["mismatched_keys"]):
        name, stored, wanted = unfit[0]
        raise ModelNotFoundError(
            f"model={shown!r} can't be loaded: {name} has shape {tuple(stored)} in its weights, but {tuple(wanted)} by"
            f" its config.json. Expected the config.json that was saved with these weights. {_BUNDLED_HINT}"
        )
    if missing := sorted(info["missing_keys"]):
        raise NotCausalLMError(
            f"model={shown!r} is not a whole causal language model: its checkpoint lacks {len(missing)} tensors"
            f" ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}), which would be random."
            f" Save it from {type(model).__name__}. {_BUNDLED_HINT}"
        )
    return model


def map_weights(directory: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel | None:
    """The same model with its weights mapped into memory from `model.safetensors`, ten times as fast.

    None where this is not certain to equal `from_pretrained` bit by bit: weights in several files, quantized
    or with adapters, names or shapes that transformers would have to translate, parts that stay in float32.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    auto: Any = AutoModelForCausalLM
    file = directory / "model.safetensors"
    alone = not any(directory.glob("*.index.json")) and not (directory / "adapter_config.json").exists()
    if not file.is_file() or not alone or getattr(config, "quantization_config", None) is not None:
        return None
    try:
        tensors = load_file(file)
    except SafetensorError:
        return None  # from_pretrained then raises the error, and its caller words it
    with no_init_weights():  # so that the parameters' memory is reserved but never touched; buffers are computed
        model = auto.from_config(config, dtype=dtype)
    expected = model.state_dict()
    if model._keep_in_fp32_modules or any(
        name not in expected or tensor.shape != expected[name].shape for name, tensor in tensors.items()
    ):
        return None
    tensors = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    missing = set(model.load_state_dict(tensors, strict=False, assign=True).missing_keys)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    if missing:  # tie_weights took out what it tied
        return None
    model.config.name_or_path = str(directory)
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
    mapped: PreTrainedModel = model.eval()
    return mapped


def _check_directory(shown: str, directory: Path) -> None:
    if not (directory / "config.json").is_file():
        ggufs = sorted(directory.glob("*.gguf"))
        hint = f"It holds {ggufs[0].name}: pass that file, {str(ggufs[0])!r}." if ggufs else _BUNDLED_HINT
        raise ModelNotFoundError(
            f"model={shown!r} can't be loaded: the directory has no config.json. Expected a model as transformers'"
            f" save_pretrained writes it (config.json, model.safetensors, tokenizer.json). {hint}"
        )


def _attempt(shown: str, source: str, local: bool, part: str, action: Callable[[], T]) -> T:
    """Runs transformers' code, whose errors are of many kinds, and words what it raises."""
    try:
        return action()
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        said = said if len(said) < 300 else said[:297] + "..."
        if part == "config" and "model type" in said:
            raise UnsupportedModelError(
                f"model={shown!r} can't be loaded: the installed transformers doesn't know its architecture, and"
                f" tokloom runs no code from model repositories. transformers said: {said} {_BUNDLED_HINT}"
            ) from error
        if local:
            where = f"the {part} in {source} can't be read"
            hint = "Expected a model as transformers' save_pretrained writes it."
        else:
            where = f"there is no such directory, and the {part} of the hub id {source} can't be fetched"
            hint = (
                "Check the id and the network (HF_HUB_OFFLINE, a proxy, a login for gated models), or give a local"
                " directory or .gguf file."
            )
        raise ModelNotFoundError(
            f"model={shown!r} can't be loaded: {where}: {type(error).__name__}: {said} {hint} {_BUNDLED_HINT}"
        ) from error
