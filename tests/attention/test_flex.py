"""FlexAttention's path, on the CPU and uncompiled, against torch's attention: alone, and under the policies."""

from __future__ import annotations

import pytest
import torch

from tests.attention.test_attend import some_tokens
from tests.attention.test_ragged import shared
from tests.engine.test_together import POLICIES
from tokloom.attention import flex
from tokloom.attention.attend import attention_weights
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import Step

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.mark.parametrize(
    ("batch", "kv_heads", "group", "softcap", "shape"),
    [(1, 2, 2, None, "all"), (2, 2, 1, 2.0, "all"), (2, 2, 2, None, "heads"), (2, 1, 3, 2.0, "one")],
)
def test_a_mask_hides_what_it_says(batch: int, kv_heads: int, group: int, softcap: float | None, shape: str) -> None:
    rows, past = 7, 150
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(batch, kv_heads * group, rows, 16, generator=generator)
    key, value = torch.randn(2, batch, kv_heads, past + rows, 16, generator=generator)
    size = (batch if shape == "all" else 1, 1 if shape == "one" else kv_heads, rows, past + rows)
    mask = torch.rand(size, generator=generator) < 0.3
    mask[..., past:] |= torch.eye(rows, dtype=torch.bool)
    out = flex.masked_attention(query, key, value, mask, 0.3, softcap)
    weights = attention_weights(query, key, mask, 0.3, softcap)
    expected = weights @ value.repeat_interleave(group, 1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_without_a_mask_rows_see_what_comes_before() -> None:
    query, key, value = torch.randn(3, 1, 2, 20, 16, generator=torch.Generator().manual_seed(0))
    out = flex.masked_attention(query, key, value, None, 0.25, 3.0)
    causal = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(out, attention_weights(query, key, causal, 0.25, 3.0) @ value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ragged", "token_select"])
def test_policies_go_the_same_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks after a past, single tokens and trees."""
    model, logits, calls = shared("torch"), [], 0
    masked = flex.masked_attention

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return masked(*arguments)

    monkeypatch.setattr(flex, "masked_attention", counted)
    for devices in (frozenset(), frozenset({"cpu"})):
        monkeypatch.setattr(flex, "DEVICES", devices)
        assert calls == 0
        store = new_store(model, POLICIES[name], 0)
        *_, (_, after) = prefill(model, store, some_tokens(model, 60), 25)
        one = forward(model, store, [7], Step((60,), model.device), all_logits=True)
        tree = Step((61, 62, 62), model.device, parents=(-1, 0, 0))
        logits.append([after, one, forward(model, store, [3, 4, 5], tree, all_logits=True)])
    assert calls > 0
    for plain, by_flex in zip(*logits, strict=True):
        torch.testing.assert_close(by_flex, plain, atol=1e-4, rtol=1e-4)
