"""Every precision of weights and of keys and values: the text does not depend on drafting, and stays near fp32's."""

from __future__ import annotations

import pytest
import torch

import tokloom
from tests.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling

# Largest mean difference of a token's log-probability to transformers' own layers, at the end of a page.
TOLERANCES = {"exact": 1e-4, "fp32": 1e-4, "bf16": 0.02, "int8": 0.06, "int4": 0.06}
KV = {"fp32": 1e-6, "bf16": 0.01, "int8": 0.06}


def rated(engine: Engine, page: str) -> torch.Tensor:
    """Log-probabilities of the page's last tokens."""
    return torch.tensor(engine.score(page[:850], page[850:]).logprobs)


@pytest.fixture(scope="module")
def page(alice: str) -> str:
    return alice[4000:5000]


@pytest.fixture(scope="module")
def reference(page: str) -> torch.Tensor:
    return rated(Engine(weights="torch"), page)


@pytest.mark.model
@pytest.mark.parametrize("weights", list(TOLERANCES))
def test_weights(weights: str, page: str, reference: torch.Tensor) -> None:
    model = tokloom.load(weights=weights)
    found = rated(Engine(model), page)
    assert (found - reference).abs().mean() < TOLERANCES[weights]
    sampling = Sampling(max_new_tokens=24)
    drafted = Engine(model, drafter="token_recycling")
    always_draft(drafted)
    result = drafted.generate(page, sampling=sampling)
    assert result.ledger.row("decode").counts["drafted"] > 0
    assert result.tokens == Engine(model).generate(page, sampling=sampling).tokens


@pytest.mark.model
@pytest.mark.parametrize("kv", list(KV))
@pytest.mark.parametrize("attention", ["dense", "h2o:budget=128", "token_select:budget=128"])
def test_keys_and_values(kv: str, attention: str, smollm2: tokloom.LanguageModel, page: str) -> None:
    plain = rated(Engine(smollm2), page)
    found = rated(Engine(smollm2, kv=kv), page)
    assert (found - plain).abs().mean() < KV[kv]
    sampling = Sampling(max_new_tokens=16)
    drafted = Engine(smollm2, attention=attention, drafter="token_recycling", kv=kv)
    always_draft(drafted)
    texts = [e.generate(page, sampling=sampling) for e in (Engine(smollm2, attention=attention, kv=kv), drafted)]
    assert texts[0].tokens == texts[1].tokens
    held = [texts[0].ledger.row("attention").kv_bytes, Engine(smollm2, attention=attention).generate(
        page, sampling=sampling).ledger.row("attention").kv_bytes]  # fmt: skip
    assert (held[0] < 0.7 * held[1]) == (kv != "fp32")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(tokloom.errors.ArgumentError, match=r"kv='int3'.*fp32, bf16, int8, or None"):
        Engine(kv="int3")
