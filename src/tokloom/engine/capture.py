"""Hidden states that a forward pass leaves behind for whoever asked for them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tokloom.errors import ArgumentError


class MlpInput(NamedTuple):
    """Names what goes into the MLP of a layer, after the norm before it. `layer` counts as in `Capture`, from 1."""

    layer: int


class Capture:
    """The hidden states of one layer, as transformers numbers them in `output_hidden_states`.

    layer: 0 is the embeddings, i what the i-th layer gives, the last one after the norm before the head. Negative
        numbers count from the end: -1 is what the head sees. An `MlpInput` is a place inside a layer.
    layers: how many layers the model has.
    """

    def __init__(self, layer: int | MlpInput, layers: int) -> None:
        self.inside = isinstance(layer, MlpInput)
        """The input of the layer's MLP is wanted, not what the layer gives."""
        number = layer.layer if isinstance(layer, MlpInput) else layer
        if not -layers - 1 <= number <= layers or (self.inside and number % (layers + 1) == 0):
            raise ArgumentError(
                "hidden_layer", number, f"an integer in [{-layers - 1}, {layers}]" + ", not 0" * self.inside
            )
        self.layer = number % (layers + 1)
        self.hidden = torch.empty(0)
        """(rows, hidden size) float32 of the last pass, a tensor of its own."""

    def take(self, layer: int, hidden: torch.Tensor) -> None:
        """Keeps a copy of `hidden` (rows, hidden size) if it is the layer that was asked for."""
        if layer == self.layer and not self.inside:
            self.hidden = hidden.float().clone()

    def take_inside(self, hidden: torch.Tensor) -> None:
        """Keeps a copy of the input of the MLP that was asked for."""
        self.hidden = hidden.float().clone()
