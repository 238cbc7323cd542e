"""A model of some of another's layers: the same weights, less work.

Its layers keep their numbers, so that both can work on one `KVStore`: what a submodel has written for a token is what
the whole model would have written, as long as no layer before was left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from tokloom.errors import ArgumentError, UnsupportedModelError
from tokloom.models.language_model import LanguageModel

if TYPE_CHECKING:
    from collections.abc import Callable


class AdaptedNorm(torch.nn.Module):
    """The norm before the head, with a map of the hidden states in front of it."""

    def __init__(self, norm: torch.nn.Module, adapter: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.norm, self.adapter = norm, adapter

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        adapted: torch.Tensor = self.norm(self.adapter(hidden))
        return adapted


def submodel(
    model: LanguageModel, layers: Sequence[int], adapter: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> LanguageModel:
    """The layers with these numbers, from 0 and rising, then the model's own norm and head.

    adapter: applied to the hidden states before the norm, (..., hidden size) -> same.

    Raises:
        ArgumentError: numbers that don't rise or that the model does not have.
        UnsupportedModelError: its layers or its norm can't be found.
    """
    whole: Any = model.model
    count = whole.config.get_text_config().num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < count:
        raise ArgumentError("layers", list(layers), f"rising numbers of layers, 0 to {count - 1}")
    path = _path_to_layers(model).split(".")
    shell = _shallow(whole)
    shell.config = _shortened(whole.config, layers)
    parent = shell
    for name in path[:-1]:
        child = _shallow(parent.get_submodule(name))
        if hasattr(child, "config"):
            child.config = shell.config.get_text_config()
        parent._modules[name] = child
        parent = child
    blocks = parent.get_submodule(path[-1])
    parent._modules[path[-1]] = torch.nn.ModuleList(blocks[i] for i in layers)
    if adapter is not None:
        if not isinstance(getattr(parent, "norm", None), torch.nn.Module):
            raise UnsupportedModelError(f"{model.name}: no norm before the head was found beside its layers.")
        parent._modules["norm"] = AdaptedNorm(parent.norm, adapter)
    return LanguageModel(f"{model.name}[{len(layers)} of {count} layers]", shell, model.tokenizer, model.weights)


def decoder_layers(model: LanguageModel) -> torch.nn.ModuleList:
    """The model's layers. Raises UnsupportedModelError if they can't be found."""
    layers: torch.nn.ModuleList = model.model.get_submodule(_path_to_layers(model))  # type: ignore[assignment]
    return layers


def _path_to_layers(model: LanguageModel) -> str:
    count = model.model.config.get_text_config().num_hidden_layers
    for name, module in model.model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and hasattr(module[0], "self_attn"):
            return str(name)
    raise UnsupportedModelError(f"{model.name}: its list of {count} layers with a self_attn each was not found.")


def _shallow(module: Any) -> Any:
    """A module with the same children, parameters and settings, whose children can be exchanged."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _shortened(config: Any, layers: Sequence[int]) -> Any:
    config = copy.deepcopy(config)
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds:
        text.layer_types = [kinds[i] for i in layers]
    text.num_hidden_layers = len(layers)
    return config
