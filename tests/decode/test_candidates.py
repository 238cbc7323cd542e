"""The likeliest tokens of rows of logits, beside a sort."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokloom.decode.candidates import top_tokens


@given(
    rows=st.integers(0, 4), width=st.integers(1, 300), share=st.floats(0, 1), seed=st.integers(0, 99),
    values=st.sampled_from(["different", "few", "rising", "falling"]),
)  # fmt: skip
def test_equals_a_stable_sort(rows: int, width: int, share: float, seed: int, values: str) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, width)).astype(np.float32)
    if values == "few":
        logits = np.round(logits)
    elif values != "different":
        logits = np.sort(logits, axis=-1)[:, :: 1 if values == "rising" else -1]
    count = max(1, round(share * width))
    expected = np.argsort(-logits, axis=-1, kind="stable")[:, :count]
    assert np.array_equal(top_tokens(torch.from_numpy(logits.copy()), count), expected)


def test_nan_comes_last_and_strides_do_not_matter() -> None:
    logits = torch.tensor([[1.0, 9.0], [float("nan"), 9.0], [3.0, 9.0], [-torch.inf, 9.0]]).T[:1]
    assert top_tokens(logits, 2).tolist() == [[2, 0]]


def test_other_dtypes_go_through_torch() -> None:
    assert top_tokens(torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.bfloat16), 2).tolist() == [[1, 2]]
