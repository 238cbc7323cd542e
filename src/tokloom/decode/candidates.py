"""The likeliest tokens after each row of logits, as drafters want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tokloom._core import top_k

if TYPE_CHECKING:
    from numpy.typing import NDArray


def top_tokens(logits: torch.Tensor, count: int) -> NDArray[np.int32]:
    """Token ids (rows, count) int32, the likeliest first, of logits (rows, vocabulary).

    On a CPU by the core: torch would do it on several threads, which then wait actively for a while, on the cores that
    the next forward pass needs.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return logits.topk(count, dim=-1).indices.to("cpu", torch.int32).numpy()
    rows = logits.contiguous()
    out = np.empty((rows.shape[0], count), dtype=np.int32)
    top_k(rows.data_ptr(), rows.shape[0], rows.shape[1], count, out.ctypes.data)
    return out


def probabilities_of(logits: torch.Tensor, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    """Probabilities (rows, count) of tokens (rows, count) under logits (rows, vocabulary); by numpy, for the
    same reason."""
    rows = logits.cpu().float().numpy()
    highest = rows.max(axis=1, keepdims=True)
    spread = np.exp(rows - highest).sum(axis=1, keepdims=True)
    found: NDArray[np.float64] = (np.exp(np.take_along_axis(rows, tokens, 1) - highest) / spread).astype(np.float64)
    return found
