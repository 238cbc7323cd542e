"""The quantized blocks of a GGUF file's matrices, kept beside the converted model for the kernels to use as they are.

transformers makes float32 of them and may reorder their rows (llama.cpp stores Llama's queries and keys in another
order). Which row of the file became which row of the model is found by comparing values, so that no rule about any
architecture is needed and a match is a proof: the blocks that are kept stand for exactly the model's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

FILE = "blocks.safetensors"

TYPES = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
"""Types that the core takes as they are, with ggml's number; matrices of others are packed from their values."""


class Blocks(NamedTuple):
    """One matrix: uint8 (outputs, bytes of a row) of a type in `TYPES`."""

    data: torch.Tensor
    type: str


def collect(gguf: Path, model: Any) -> dict[str, Blocks]:
    """Blocks of the model's linear layers, by the layer's name; a layer that the file has in no such type is left out.

    gguf: the file that `model` was made from.
    """
    import numpy as np
    import torch
    from gguf import GGUFReader, dequantize

    rows: dict[int, tuple[int, int]] = {}  # hash of a row's values: tensor and row
    found: list[tuple[Any, Any]] = []
    for tensor in GGUFReader(gguf).tensors:
        if tensor.tensor_type.name in TYPES and tensor.data.ndim == 2:
            values = dequantize(tensor.data, tensor.tensor_type)
            for row in range(values.shape[0]):
                rows.setdefault(hash(values[row].tobytes()), (len(found), row))
            found.append((tensor.data, tensor.tensor_type))
    blocks = {}
    for name, linear in model.named_modules():
        if type(linear) is not torch.nn.Linear:
            continue
        values = linear.weight.detach().float().numpy()
        places = [rows.get(hash(value.tobytes())) for value in values]
        sources = {place[0] for place in places if place is not None}
        if None in places or len(sources) != 1:
            continue
        data, kind = found[sources.pop()]
        data = data[[place[1] for place in places if place is not None]]
        if np.array_equal(dequantize(data, kind), values):
            blocks[name] = Blocks(torch.from_numpy(data), kind.name)
    return blocks


def write(directory: Path, blocks: dict[str, Blocks]) -> None:
    """Writes the file that `read` reads."""
    from safetensors.torch import save_file

    tensors = {name: matrix.data.contiguous() for name, matrix in blocks.items()}
    save_file(
        tensors, directory / FILE, metadata={"format": "pt"} | {name: matrix.type for name, matrix in blocks.items()}
    )


def read(directory: Path) -> dict[str, Blocks]:
    """The blocks in a converted model's directory, mapped into memory; none if it has no such file."""
    from safetensors import safe_open

    file = directory / FILE
    if not file.is_file():
        return {}
    with safe_open(file, "pt") as held:
        types = held.metadata() or {}
        return {name: Blocks(held.get_tensor(name), types[name]) for name in held.keys()}  # noqa: SIM118
