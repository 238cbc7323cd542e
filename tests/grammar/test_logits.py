"""Masks on logits, against a loop over tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokloom.errors import ArgumentError
from tokloom.grammar.logits import apply_mask


def expected(logits: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    result = logits.clone()
    for row, words in zip(result, masks, strict=True):
        for token in range(len(row)):
            if not words[token // 32] >> token % 32 & 1:
                row[token] = float("-inf")
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("tokens", [1, 32, 77, 160])
def test_forbidden_logits_are_minus_infinity(dtype: torch.dtype, tokens: int) -> None:
    random = np.random.default_rng(tokens)
    masks = random.integers(-(2**31), 2**31, (3, 6), dtype=np.int64).astype(np.int32)
    masks[0, 0], masks[1, 0] = -1, 0
    logits = torch.randn(3, tokens, dtype=torch.float64).to(dtype)
    wanted = expected(logits, masks)
    wide = torch.zeros(3, tokens + 5, dtype=dtype)
    wide[:, :tokens] = logits
    apply_mask(wide[:, :tokens], masks)
    assert torch.equal(wide[:, :tokens], wanted)
    assert not wide[:, tokens:].any()
    apply_mask(logits[0], masks[0])
    assert torch.equal(logits[0], wanted[0])
    columns = torch.zeros(tokens, 3, dtype=dtype).T
    columns.copy_(wide[:, :tokens])
    apply_mask(columns, masks)
    assert torch.equal(columns, wanted)


@pytest.mark.parametrize(
    ("logits", "masks", "argument"),
    [
        (torch.zeros(2, 40), np.zeros((2, 1), np.int32), "masks"),
        (torch.zeros(2, 40), np.zeros((1, 2), np.int32), "masks"),
        (torch.zeros(2, 40), np.zeros((2, 2), np.int64), "masks"),
        (torch.zeros(2, 40, dtype=torch.int32), np.zeros((2, 2), np.int32), "logits"),
        (torch.zeros(1, 2, 40), np.zeros((2, 2), np.int32), "logits"),
    ],
)
def test_wrong_shapes_are_refused(logits: torch.Tensor, masks: np.ndarray, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"{argument}="):
        apply_mask(logits, masks)
