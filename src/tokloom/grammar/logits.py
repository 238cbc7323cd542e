"""Masks applied to logits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tokloom._core import forbid
from tokloom.errors import ArgumentError

_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def apply_mask(logits: torch.Tensor, masks: NDArray[np.int32]) -> None:
    """Sets the logits of tokens that a mask forbids to minus infinity, in place.

    Args:
        logits: (vocabulary,) or (rows, vocabulary), of a floating type, on any device.
        masks: int32 (words,) or (rows, words) with at least as many bits as the vocabulary; a row a row of logits.

    Raises ArgumentError for other shapes or types.
    """
    if logits.ndim not in (1, 2) or not logits.is_floating_point():
        raise ArgumentError(
            "logits", (logits.dtype, tuple(logits.shape)), "floating, (vocabulary,) or (rows, vocabulary)"
        )
    rows = logits.view(1, -1) if logits.ndim == 1 else logits
    words = np.ascontiguousarray(masks.reshape(1, -1) if masks.ndim == 1 else masks)
    tokens = rows.shape[1]
    if words.dtype != np.int32 or words.shape[0] != rows.shape[0] or words.shape[1] * 32 < tokens:
        valid = f"int32 ({rows.shape[0]}, {(tokens + 31) // 32})"
        raise ArgumentError("masks", (str(masks.dtype), masks.shape), valid)
    if rows.device.type == "cpu" and rows.dtype in _TYPES and rows.stride(1) == 1:
        forbid(rows.data_ptr(), _TYPES[rows.dtype], tokens, rows.stride(0), words)
        return
    bits = torch.from_numpy(words).to(rows.device).unsqueeze(-1) >> torch.arange(32, device=rows.device) & 1
    rows.masked_fill_(bits.view(len(words), -1)[:, :tokens] == 0, float("-inf"))
