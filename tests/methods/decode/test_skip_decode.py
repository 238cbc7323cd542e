"""SkipDecode: each token against transformers' own cache and modules of the layers that it goes through."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from tests import tiny_models
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.engine.request_context import RequestContext
from tokloom.errors import ArgumentError, SpecError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.decode.skip_decode import SkipDecode
from tokloom.models.language_model import LanguageModel
from tokloom.models.packed_linear import pack

PROMPT = "one two three four five six seven one two three"
NEW = 16


@given(
    count=st.integers(1, 80), tokens=st.integers(2, 300), max_share=st.floats(0.01, 1), min_share=st.floats(0.01, 1),
    warmup=st.integers(1, 4),
)  # fmt: skip
def test_the_schedule_falls_from_most_to_least(
    count: int, tokens: int, max_share: float, min_share: float, warmup: int
) -> None:
    max_share, min_share = max(max_share, min_share), min(max_share, min_share)
    options = SkipDecode(max_share=max_share, min_share=min_share, warmup=warmup)
    run = [options.run(t, tokens, count) for t in range(tokens + 5)]
    assert run == sorted(run, reverse=True)
    assert run[0] == max(warmup, round(count * max_share))
    assert run[tokens - 1] == run[-1] == max(warmup, round(count * min_share))


def by_hand(model: LanguageModel, options: SkipDecode, new: int) -> list[int]:
    """Greedy text by transformers alone: a copy of the model with some of its layers for each token."""
    whole = copy.deepcopy(model.model)
    whole.set_attn_implementation("eager")
    count, kinds = whole.config.num_hidden_layers, getattr(whole.config, "layer_types", None)
    low = options.warmup or count // 2
    tokens = model.encode_prompt(PROMPT, chat=False)
    cache = DynamicCache()
    with torch.inference_mode():
        logits = whole(torch.tensor([tokens]), past_key_values=cache).logits[0, -1]
        out: list[int] = []
        while True:
            out.append(int(logits.argmax()))
            if len(out) == new or out[-1] in model.eos_ids:
                return out
            fallen = (len(out) - 1) / (new - 1)
            run = max(low, round(count * (options.max_share - (options.max_share - options.min_share) * fallen)))
            kept = [i for i in range(count) if i < low or i >= count - run + low]
            part = copy.deepcopy(whole)
            part.model.layers = torch.nn.ModuleList(part.model.layers[i] for i in kept)
            part.model.config.num_hidden_layers = run
            if kinds:
                part.model.config.layer_types = [kinds[i] for i in kept]
            positions = torch.tensor([[len(tokens) + len(out) - 1]])
            logits = part(torch.tensor([[out[-1]]]), past_key_values=cache, position_ids=positions).logits[0, -1]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "options", [SkipDecode(max_share=1.0, min_share=0.3, warmup=1), SkipDecode(max_share=0.7, min_share=0.5)]
)
def test_the_text_is_that_of_the_layers_left(options: SkipDecode, fused: bool) -> None:
    model = tiny_models.build_llama()
    expected = by_hand(model, options, NEW)
    if fused:
        pack(model.model, "fp32")
    result = Engine(model, predictor=options).generate(PROMPT, sampling=Sampling(max_new_tokens=NEW))
    assert list(result.tokens) == expected
    assert result.tokens != Engine(model).generate(PROMPT, sampling=Sampling(max_new_tokens=NEW)).tokens
    counts = result.ledger.row("decode").counts
    assert counts["layers run"] < counts["layers of plain decoding"] == 3 * (len(expected) - 1)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3", "tiny_qwen3"])
@pytest.mark.parametrize("attention", ["dense", "h2o:budget=24,interval=4"])
def test_a_constant_schedule_of_all_layers_is_plain_decoding(
    family: str, attention: str, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    sampling = Sampling(max_new_tokens=30, temperature=0.9, seed=1)
    plain = Engine(model, attention=attention).generate(PROMPT, sampling=sampling)
    skipped = Engine(model, attention=attention, predictor="skip_decode:min_share=1").generate(
        PROMPT, sampling=sampling
    )
    assert skipped.tokens == plain.tokens
    counts = skipped.ledger.row("decode").counts
    assert counts["layers run"] == counts["layers of plain decoding"]


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@pytest.mark.parametrize("attention", ["dense", "h2o:budget=24,interval=4"])
def test_drafts_change_nothing(family: str, attention: str, request: pytest.FixtureRequest) -> None:
    """No draft goes past a place where the schedule falls."""
    model: LanguageModel = request.getfixturevalue(family)
    for sampling in (Sampling(max_new_tokens=40), Sampling(max_new_tokens=40, temperature=1.1, seed=2)):
        alone = Engine(model, attention=attention, predictor="skip_decode:min_share=0.3,warmup=1")
        engine = Engine(
            model, attention=attention, predictor="skip_decode:min_share=0.3,warmup=1", drafter="token_recycling"
        )
        always_draft(engine)
        expected = alone.generate(PROMPT, sampling=sampling)
        for _ in range(2):
            drafted = engine.generate(PROMPT, sampling=sampling)
            assert drafted.tokens == expected.tokens
        assert drafted.ledger.row("decode").counts["drafted"] > 0


def test_bad_options_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="skip_decode:least"):
        SkipDecode(max_share=0.4, min_share=0.5)
    with pytest.raises(ArgumentError, match=r"warmup=4.*at most 3"):
        Engine(tiny_llama, predictor="skip_decode:warmup=4").generate(PROMPT)


@pytest.mark.model
def test_effect_layers_saved_and_what_they_cost(smollm2: LanguageModel, alice: str) -> None:
    """The schedule's share of layers is saved. Without the paper's finetuning the price is high, and higher still where
    all but the lowest layer may be skipped, as there."""
    prompt, page = smollm2.encode(alice[16000:16600]), smollm2.encode(alice[16600:16800])
    perplexity = {}
    for min_share, warmup in ((1.0, None), (0.9, None), (0.9, 1)):
        options = SkipDecode(min_share=min_share, warmup=warmup)
        prediction = options.start(RequestContext(smollm2, Dense(), len(page), kv=None, prefill_chunk=512))
        logprobs = [prediction.prefill(prompt, lambda done: None).log_softmax(-1)[page[0]]]
        for i, (token, target) in enumerate(pairwise(page)):
            logits = prediction.rows([token], Step((len(prompt) + i,), smollm2.device))
            logprobs.append(logits[0].log_softmax(-1)[target])
        perplexity[min_share, warmup] = math.exp(-float(torch.stack(logprobs).mean()))
        share = prediction.counts["layers run"] / prediction.counts["layers of plain decoding"]
        assert share == pytest.approx((1 + min_share) / 2, abs=0.02)
    assert perplexity[1.0, None] < perplexity[0.9, None] < perplexity[0.9, 1]
