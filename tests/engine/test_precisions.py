"""Every precision of weights and of keys and values: the text does not depend on drafting, and stays near fp32's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

import tokloom
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling

# Largest mean difference of a token's log-probability to transformers' own layers, at the end of a page.
TOLERANCES = {"exact": 1e-4, "fp32": 1e-4, "bf16": 0.02, "int8": 0.06, "int4": 0.06}
SHORT = 640  # characters of the page, some 170 tokens: more than a budget
KV = {"bf16": 0.01, "int8": 0.04, "int4": 0.25}  # measured on four pages: 0.005 to 0.006, and 0.026 to 0.029
PERPLEXITY = {"bf16": 0.01, "int8": 0.01, "int4": 0.03}  # relative; int4 1.0 or 1.2%, by how the machine rounds


def rated(engine: Engine, page: str) -> torch.Tensor:
    """Log-probabilities of the page's last tokens."""
    return torch.tensor(engine.score(page[:850], page[850:]).logprobs)


@pytest.fixture(scope="module")
def page(alice: str) -> str:
    return alice[4000:5000]


@pytest.fixture(scope="module")
def reference(page: str, smollm2_torch: tokloom.LanguageModel) -> torch.Tensor:
    return rated(Engine(smollm2_torch), page)


@pytest.mark.model
@pytest.mark.parametrize("weights", list(TOLERANCES))
def test_weights(weights: str, page: str, reference: torch.Tensor, smollm2: tokloom.LanguageModel) -> None:
    model = smollm2 if weights == "exact" else tokloom.load(weights=weights)
    found = rated(Engine(model), page)
    assert (found - reference).abs().mean() < TOLERANCES[weights]
    sampling = Sampling(max_new_tokens=24)
    drafted = Engine(model, drafter="token_recycling")
    always_draft(drafted)
    result = drafted.generate(page[:300], sampling=sampling)
    assert result.ledger.row("decode").counts["drafted"] > 0
    assert result.tokens == Engine(model).generate(page[:300], sampling=sampling).tokens


@pytest.fixture(scope="module")
def long_reference(smollm2: tokloom.LanguageModel, alice: str) -> torch.Tensor:
    return long_rated(smollm2, alice, "fp32")


def long_rated(model: tokloom.LanguageModel, alice: str, kv: str) -> torch.Tensor:
    """Some 300 tokens: of 30, a single one that falls otherwise decides the mean."""
    return torch.tensor(Engine(model, kv=kv).score(alice[4000:5800], alice[5800:7000]).logprobs)


@pytest.mark.model
@pytest.mark.parametrize("kv", ["bf16", "int8", "int4"])
def test_stored_precision_costs_little(
    kv: str, smollm2: tokloom.LanguageModel, alice: str, long_reference: torch.Tensor
) -> None:
    difference = long_rated(smollm2, alice, kv) - long_reference
    assert 0 < difference.abs().mean() < KV[kv]
    assert abs(float(torch.exp(-difference.mean())) - 1) < PERPLEXITY[kv]


@pytest.fixture(scope="module")
def fp32_bytes(smollm2: tokloom.LanguageModel, page: str) -> Callable[[str], int]:
    """Bytes of a policy's keys and values in fp32, after the page and 16 tokens."""

    @cache
    def measured(attention: str) -> int:
        result = Engine(smollm2, attention=attention).generate(page[:SHORT], sampling=Sampling(max_new_tokens=16))
        return result.ledger.row("attention").kv_bytes

    return measured


@pytest.mark.model
@pytest.mark.parametrize("kv", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("attention", ["dense", "h2o:budget=128", "token_select:budget=128"])
def test_drafting_over_every_store(
    kv: str, attention: str, smollm2: tokloom.LanguageModel, page: str, fp32_bytes: Callable[[str], int]
) -> None:
    """The same text over fp32. A rounded store turns a last-bit difference between a pass of one row and one of many
    into another level, so that only the model's own near ties may fall otherwise; see docs/architecture.md."""
    page, sampling = page[:SHORT], Sampling(max_new_tokens=16)
    plain = Engine(smollm2, attention=attention, kv=kv)
    drafted = Engine(smollm2, attention=attention, drafter="token_recycling", kv=kv)
    always_draft(drafted)
    expected, found = plain.generate(page, sampling=sampling), drafted.generate(page, sampling=sampling)
    assert found.ledger.row("decode").counts["drafted"] > 0
    if kv == "fp32":
        assert found.tokens == expected.tokens
    else:
        assert sum(rank > 0 for rank in plain.score(page, found.text).ranks) <= 2
    held, whole = expected.ledger.row("attention").kv_bytes, fp32_bytes(attention)
    assert (held < 0.7 * whole) == (kv != "fp32")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(tokloom.errors.ArgumentError, match=r"kv='int3'.*fp32, bf16, int8, int4, or None"):
        Engine(kv="int3")
