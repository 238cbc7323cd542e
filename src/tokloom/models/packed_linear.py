"""Linear layers with packed weights: one kernel for one row, a draft tree's rows or a prompt chunk's.

A token's forward pass reads every weight once; with one or a few rows torch's matrix product takes
several times as long as that. The C++ core keeps the weights packed in the order in which its kernel
reads them, as fp32, bf16, int8 with a scale for every 32 inputs, or int4 with a scale and a least value for every 32
(as GGUF's Q4_1), and widens them in registers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokloom._core import PackedMatrix
from tokloom.errors import ArgumentError

TORCH = "torch"
"""Leaves the model's own linear layers in place."""

WEIGHTS = ("fp32", "bf16", "int8", "int4", TORCH)
BY_DTYPE = {torch.float32: "fp32", torch.bfloat16: "bf16"}

GROUP = 32
"""Inputs that share a scale in int8 and int4; a layer with another number of inputs stays bf16."""


class PackedLinear(nn.Module):
    """y = x W^T + b, as `nn.Linear`, for inference on a CPU.

    Shapes: x (..., in_features) -> (..., out_features), in the dtype of x, computed in float32.
    """

    def __init__(self, linear: nn.Linear, weights: str) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weights: str = weights if weights in ("fp32", "bf16") or linear.in_features % GROUP == 0 else "bf16"
        source = linear.weight.detach().to("cpu", torch.float32).contiguous()
        threads = torch.get_num_threads()
        self.matrix = PackedMatrix(source.data_ptr(), self.out_features, self.in_features, self.weights, 16, threads)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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


def check_weights(weights: str | None, device: torch.device) -> None:
    """Raises ArgumentError unless `weights` is one of WEIGHTS or None, and possible on the device."""
    if weights is not None and weights not in WEIGHTS:
        raise ArgumentError("weights", weights, "one of " + ", ".join(WEIGHTS))
    if weights not in (None, TORCH) and device.type != "cpu":
        raise ArgumentError("weights", weights, f'"torch" or None on {device}', "Packed weights are for the CPU.")


def pack(model: Any, weights: str | None) -> str:
    """Replaces every `nn.Linear` of a model in place, the output head included; a tied embedding keeps its weights.

    weights: one of WEIGHTS; None is the precision that the model has, if the kernels have it. With int4 the output
    head is int8, as in most GGUF files: its errors go straight into the logits. Returns what was done.
    """
    if weights is None:
        weights = BY_DTYPE.get(model.dtype, TORCH) if model.device.type == "cpu" else TORCH
    if weights != TORCH:
        head, of_head = model.get_output_embeddings(), "int8" if weights == "int4" else weights
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, PackedLinear(child, of_head if child is head else weights))
    return weights
