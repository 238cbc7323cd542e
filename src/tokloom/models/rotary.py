"""A model with other rotary frequencies: all weights are shared, only the rotary module is its own."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tokloom.errors import UnsupportedModelError
from tokloom.models.fused_decoder import FIXED_ROTARY
from tokloom.models.language_model import LanguageModel
from tokloom.models.rotary_scaling import RotaryScaling

OWN = ("window", "fused")
"""Cached properties of a `LanguageModel` that depend on its rotary embeddings."""


def with_rotary(model: LanguageModel, scaling: RotaryScaling) -> LanguageModel:
    """A second model over the same weights whose rotary embeddings, and with them its window, are scaled.

    The first one stays as it is, so that both can serve requests at the same time. Where layer types have rotary
    embeddings of their own, those of sliding windows are left alone: no distance in them grows.

    Raises UnsupportedModelError if the model has no rotary embeddings whose angles depend on the position alone.
    """
    outer: Any = model.model
    prefixes = _prefixes(model, scaling.name)
    inner = outer.model
    rotary = copy.deepcopy(inner.rotary_emb)
    for prefix in prefixes:
        plain = getattr(rotary, f"{prefix}inv_freq")
        frequencies, factor = scaling.frequencies(plain.double(), model.window)
        setattr(rotary, f"{prefix}inv_freq", torch.nn.Buffer(frequencies.to(plain), persistent=False))
        scaled = f"{prefix}attention_scaling"
        setattr(rotary, scaled, getattr(rotary, scaled) * factor)
    view = copy.copy(model)
    for name in OWN:
        view.__dict__.pop(name, None)
    for name, value in (
        ("model", _replaced(outer, "model", _replaced(inner, "rotary_emb", rotary))),
        ("calibrations", {}),
        ("rope", scaling),
    ):
        object.__setattr__(view, name, value)
    return view


def frequencies_of(model: LanguageModel, wanted_by: str) -> torch.Tensor:
    """The angle per position of each pair of dimensions, float64 (head_dim / 2,), in layers without a window.

    Raises UnsupportedModelError as `with_rotary` does; `wanted_by` is named in it."""
    inner: Any = model.model.model
    (prefix, *_) = _prefixes(model, wanted_by)
    frequencies: torch.Tensor = getattr(inner.rotary_emb, f"{prefix}inv_freq").double()
    return frequencies


def _prefixes(model: LanguageModel, wanted_by: str) -> list[str]:
    """What stands before the names of a rotary module's frequencies, for each type of layer without a window."""
    rotary: Any = getattr(getattr(model.model, "model", None), "rotary_emb", None)
    kinds = getattr(rotary, "rope_type", None)
    named = kinds if isinstance(kinds, dict) else {"": kinds}
    if rotary is None or not set(named.values()) <= FIXED_ROTARY:
        raise UnsupportedModelError(
            f"{wanted_by} can't work on {model.name}: it has no rotary embeddings of a kind that depends on the "
            f"position alone ({', '.join(sorted(FIXED_ROTARY))})."
        )
    return [f"{kind}_" if kind else "" for kind in named if kind != "sliding_attention"]


def _replaced(module: Any, name: str, child: Any) -> Any:
    """A copy of a module, its parameters and other children the very same, with one child replaced."""
    other = copy.copy(module)
    other._modules = {**module._modules, name: child}
    return other
