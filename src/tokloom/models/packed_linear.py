"""Linear layers with packed weights: one kernel for one row, a draft tree's rows or a prompt chunk's.

A token's forward pass reads every weight once; with one or a few rows torch's matrix product takes several times as
long as that. The C++ core keeps the weights packed in the order in which its kernel reads them and widens them in
registers. "exact" keeps every value of the checkpoint in the smallest form that can hold it: the blocks of a GGUF file
as they are, bf16 where all of a matrix's values are bf16, else fp32. int8 has an fp16 scale for every 32 inputs, int4 a
scale and a least value (GGUF's Q4_1). Rows that levels are multiplied with have 24 bits, as many as a float; with int8
and int4 those of a prompt's chunks, more than 64, have 8, with a scale for every 32, which is twice as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tokloom._core import PackedMatrix
from tokloom.errors import ArgumentError
from tokloom.models.gguf_blocks import TYPES, Blocks

TORCH = "torch"
"""Leaves the model's own linear layers in place."""

EXACT = "exact"

WEIGHTS = (EXACT, "fp32", "bf16", "int8", "int4", TORCH)

GROUP = 32
"""Inputs that share a scale in int8 and int4."""


class PackedLinear(nn.Module):
    """y = x W^T + b, as `nn.Linear`, for inference on a CPU.

    Shapes: x (..., in_features) -> (..., out_features), in the dtype of x, computed in float32.

    weights: "fp32", "bf16", "int8", "int4" or "exact". Raises ArgumentError if int8 or int4 is asked for and the inputs
        are no multiple of 32.
    blocks: the same matrix in a GGUF file, for "exact".
    """

    def __init__(self, linear: nn.Linear, weights: str, blocks: Blocks | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        threads = torch.get_num_threads()
        if weights == EXACT and blocks is not None:
            self.weights = blocks.type
            data = blocks.data.contiguous()
            self.matrix = PackedMatrix.from_gguf(
                data.data_ptr(), data.numel(), TYPES[blocks.type], self.out_features, self.in_features, 24, threads
            )
        else:
            source = linear.weight.detach().to("cpu", torch.float32).contiguous()
            self.weights = _smallest(source) if weights == EXACT else weights
            if self.weights in ("int8", "int4") and self.in_features % GROUP:
                raise ArgumentError(
                    "weights", weights, f'"exact", "fp32" or "bf16" for a layer of {self.in_features} inputs',
                    f"{weights} has a scale for every {GROUP} inputs.",
                )  # fmt: skip
            self.matrix = PackedMatrix(source.data_ptr(), self.out_features, self.in_features, self.weights, 8, threads)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features). Raises RuntimeError, as nn.Linear, for inputs of another width."""
        if x.shape[-1] != self.in_features:  # the kernel would read, or write, past the end
            raise RuntimeError(f"inputs of {x.shape[-1]} values for a linear layer that takes {self.in_features}")
        rows = x.to(torch.float32).contiguous()
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.float32)
        count = rows.numel() // self.in_features
        self.matrix.apply(rows.data_ptr(), count, out.data_ptr(), torch.get_num_threads())
        if self.bias is not None:
            out += self.bias
        return out if x.dtype == torch.float32 else out.to(x.dtype)

    def unpacked(self) -> torch.Tensor:
        """The weights as the kernel sees them, float32 (out_features, in_features)."""
        weight = torch.empty(self.out_features, self.in_features)
        self.matrix.unpack(weight.data_ptr())
        return weight

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and scales."""
        return self.matrix.nbytes

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, weights={self.weights}"


def _smallest(weight: torch.Tensor) -> str:
    """ "bf16" if that loses nothing of a float32 matrix, else "fp32"."""
    return "fp32" if bool((weight.view(torch.int32) & 0xFFFF).any()) else "bf16"


def check_weights(weights: str | None, device: torch.device) -> None:
    """Raises ArgumentError unless `weights` is one of WEIGHTS or None, and possible on the device."""
    if weights is not None and weights not in WEIGHTS:
        raise ArgumentError("weights", weights, "one of " + ", ".join(WEIGHTS))
    if weights not in (None, TORCH) and device.type != "cpu":
        raise ArgumentError("weights", weights, f'"torch" or None on {device}', "Packed weights are for the CPU.")


def pack(model: Any, weights: str | None, blocks: Mapping[str, Blocks] | None = None) -> str:
    """Replaces every `nn.Linear` of a model in place, the output head included; a tied embedding keeps its weights.

    weights: one of WEIGHTS; None is "exact" on a CPU, else "torch". With int4 the output head is int8, as in most GGUF
        files: its errors go straight into the logits.
    blocks: of the model's linear layers, by name, for "exact".

    Returns what was done. Raises ArgumentError, and leaves the model as it is, where a layer's inputs are no multiple
    of 32 for int8 or int4.
    """
    if weights is None:
        weights = EXACT if model.device.type == "cpu" else TORCH
    if weights == TORCH:
        return TORCH
    head, of_head = model.get_output_embeddings(), "int8" if weights == "int4" else weights
    packed = {}
    for name, linear in model.named_modules():
        if type(linear) is nn.Linear:
            packed[name] = PackedLinear(linear, of_head if linear is head else weights, (blocks or {}).get(name))
    for name, layer in packed.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return weights
