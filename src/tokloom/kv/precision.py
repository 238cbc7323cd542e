"""How the keys and values of a slot are stored: what the model computes in, bf16, int8 or int4.

A precision turns rows (..., head_dim) into parts, tensors of which the first has a row for each slot, and back. The C++
core reads and writes the same parts by the precision's name; see cpp/attention.h for their layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from tokloom._core import quantize_groups, row_bytes

GROUP = 32
"""Elements of an int4 row that share a scale and a zero."""


class Precision(ABC):
    """Interface; objects are immutable and shared."""

    core: str | None
    """The name that the C++ core knows it by; None where the core can't read it."""
    centred = False
    """Keys are stored without the mean of the first ones, for each KV head and channel. Rotated keys have one that is
    large beside what tells them apart, and a grid of few levels should not have to span it."""

    @abstractmethod
    def parts(self, width: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape (without the slots) and type of each part for rows of `width` elements."""

    @abstractmethod
    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Parts of rows (..., width)."""

    @abstractmethod
    def decode(self, parts: list[torch.Tensor], width: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows (..., width) of parts; a view where nothing has to be computed."""


class Plain(Precision):
    """Numbers of one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.core = {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(dtype)

    def parts(self, width: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [((width,), self.dtype)]

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x.to(self.dtype)]

    def decode(self, parts: list[torch.Tensor], width: int, dtype: torch.dtype) -> torch.Tensor:
        return parts[0].to(dtype)


class Int8(Precision):
    """Levels -127 to 127 and one scale for each slot of a KV head."""

    core = "int8"

    def parts(self, width: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [((width,), torch.int8), ((), torch.float32)]

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        scale = x.float().abs().amax(-1) / 127
        return [(x.float() / scale.clamp_min(1e-30)[..., None]).round().to(torch.int8), scale]

    def decode(self, parts: list[torch.Tensor], width: int, dtype: torch.dtype) -> torch.Tensor:
        levels, scale = parts
        return (levels.float() * scale[..., None]).to(dtype)


class Int4(Precision):
    """Levels 0 to 15, two a byte, in groups of 32 elements with a scale and a zero of their own: 5 bits an element.

    Encoding is the core's, also for tensors elsewhere: it tries several grids for each group."""

    core = "int4"
    centred = True

    def parts(self, width: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [((row_bytes("int4", width),), torch.uint8)]

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        rows = x.detach().float().cpu().contiguous()
        width = x.shape[-1]
        out = torch.empty(*x.shape[:-1], row_bytes("int4", width), dtype=torch.uint8)
        count = rows.numel() // width
        quantize_groups(
            x=rows.data_ptr(), kv_heads=1, rows=count, head_dim=width, to=out.data_ptr(), head_stride=out.numel()
        )
        return [out.to(x.device)]

    def decode(self, parts: list[torch.Tensor], width: int, dtype: torch.dtype) -> torch.Tensor:
        size = 4 + GROUP // 2
        groups = parts[0].reshape(*parts[0].shape[:-1], parts[0].shape[-1] // size, size)
        grid = groups[..., :4].contiguous().view(torch.int32)  # (..., groups, 1)
        scale, zero = (grid & -65536).view(torch.float32), (grid << 16).view(torch.float32)
        levels = torch.stack([groups[..., 4:] & 15, groups[..., 4:] >> 4], dim=-1).flatten(-2)
        rows: torch.Tensor = (levels.float() * scale + zero).flatten(-2)
        return rows[..., :width].to(dtype)


PRECISIONS: dict[str, Precision] = {
    "fp32": Plain(torch.float32), "bf16": Plain(torch.bfloat16), "int8": Int8(), "int4": Int4()
}  # fmt: skip
"""How keys and values may be stored, by name."""
