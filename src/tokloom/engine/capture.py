"""Hidden states that a forward pass leaves behind for whoever asked for them."""

from __future__ import annotations

import torch

from tokloom.errors import ArgumentError


class Capture:
    """The hidden states of one layer, as transformers numbers them in `output_hidden_states`.

    layer: 0 is the embeddings, i what the i-th layer gives, the last one after the norm before the head. Negative
        numbers count from the end: -1 is what the head sees.
    layers: how many layers the model has.
    """

    def __init__(self, layer: int, layers: int) -> None:
        if not -layers - 1 <= layer <= layers:
            raise ArgumentError("hidden_layer", layer, f"an integer in [{-layers - 1}, {layers}]")
        self.layer = layer % (layers + 1)
        self.hidden = torch.empty(0)
        """(rows, hidden size) float32 of the last pass, a tensor of its own."""

    def take(self, layer: int, hidden: torch.Tensor) -> None:
        """Keeps a copy of `hidden` (rows, hidden size) if it is the layer that was asked for."""
        if layer == self.layer:
            self.hidden = hidden.float().clone()
