"""The rotary scaling that a GGUF file's metadata asks for; transformers' reader leaves it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tokloom.errors import UnsupportedModelError

LLAMA3 = tuple(
    {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    for factor in (8.0, 32.0)
)
"""The scalings of Llama 3.1 and 3.2, of which a file has only the factors that follow from them."""


YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
"""Further keys of YaRN, with transformers' names."""


def apply_scaling(name: str, file: Path, config: Any) -> None:
    """Sets `config.rope_parameters` by the file's metadata and its tensor of frequency factors.

    Raises UnsupportedModelError for a scaling that can't be told from the file: the model would be another one.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    split = [(key.partition(".rope.scaling."), field) for key, field in reader.fields.items()]
    said = {parts[2]: field.contents() for parts, field in split if parts[1]}
    parameters = getattr(config, "rope_parameters", None)
    kind = str(said.get("type", "none"))
    for parts, field in ((key.partition(".rope.scale_linear"), field) for key, field in reader.fields.items()):
        if parts[1] and float(field.contents()) != 1.0:  # what files said before there were types
            kind, said = "linear", {"factor": field.contents()}
    if kind not in ("none", ""):
        factor, original = said.get("factor"), said.get("original_context_length")
        known = {"type", "factor", "original_context_length", "finetuned", *(YARN if kind == "yarn" else ())}
        strange = sorted(set(said) - known)
        if (
            kind not in ("linear", "yarn")
            or not factor
            or strange
            or parameters is None
            or "rope_type" not in parameters
        ):
            raise _refusal(name, f"rope.scaling with type {kind!r}, factor {factor} and {strange or 'nothing else'}")
        scaled: dict[str, Any] = {**parameters, "rope_type": kind, "factor": float(factor)}
        if kind == "yarn":
            scaled["original_max_position_embeddings"] = int(
                original or round(config.max_position_embeddings / float(factor))
            )
            scaled |= {ours: float(said[key]) for key, ours in YARN.items() if key in said}
        config.rope_parameters = scaled
    for tensor in reader.tensors:
        if tensor.name.startswith("rope_f"):  # rope_freqs.weight, rope_factors_long.weight, rope_factors_short.weight
            found = _llama3(np.asarray(tensor.data, dtype=np.float64), parameters, config)
            if tensor.name != "rope_freqs.weight" or kind not in ("none", "") or found is None:
                raise _refusal(name, f"a tensor {tensor.name} of frequency factors")
            config.rope_parameters = {**(parameters or {}), "rope_type": "llama3", **found}


def _llama3(factors: np.ndarray[Any, Any], parameters: Any, config: Any) -> dict[str, Any] | None:
    """The parameters whose frequencies are the plain ones divided by these factors; None if no known ones are."""
    theta = float((parameters or {}).get("rope_theta", 10_000.0))
    plain = theta ** -(np.arange(len(factors)) / len(factors))
    for known in LLAMA3:
        turns = known["original_max_position_embeddings"] * plain / (2 * np.pi)
        smooth = (turns - known["low_freq_factor"]) / (known["high_freq_factor"] - known["low_freq_factor"])
        share = np.clip(smooth, 0.0, 1.0)
        expected = 1.0 / (share + (1.0 - share) / known["factor"])
        if np.allclose(factors, expected, rtol=1e-3):
            return dict(known)
    return None


def _refusal(name: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name}: the GGUF file has {what}, a rotary scaling that tokloom can't take from it. Load the original "
        "checkpoint, as a directory or by its hub id."
    )
