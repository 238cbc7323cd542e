"""The engine as its users call it: equality with transformers, streaming, stops, budgets, errors, the ledger."""

from __future__ import annotations

import json

import pydantic
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokloom
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Document, Engine, JsonSchema, Sampling
from tokloom.attention.policy import AttentionPolicy
from tokloom.errors import (
    ArgumentError,
    BudgetError,
    ChatTemplateError,
    CompositionError,
    DocumentError,
    SpecError,
    UnknownNameError,
)
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three one two three one"


def transformers_greedy(model: LanguageModel, prompt: str, count: int) -> list[int]:
    model.model.set_attn_implementation("sdpa")
    inputs = model.tokenizer(prompt, return_tensors="pt")
    output = model.model.generate(**inputs, max_new_tokens=count, do_sample=False, eos_token_id=sorted(model.eos_ids))
    return output[0, inputs.input_ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3", "tiny_qwen3"])
def test_greedy_equals_transformers(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    expected = transformers_greedy(model, PROMPT, 40)
    result = Engine(model).generate(PROMPT, sampling=Sampling(max_new_tokens=40))
    assert list(result.tokens) == expected
    assert Engine(model, prefill_chunk=3).generate(PROMPT, sampling=Sampling(max_new_tokens=40)).tokens == result.tokens


def test_stream_is_generate_in_pieces(tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=30, temperature=1.5, seed=3)
    whole = Engine(tiny_llama).generate(PROMPT, sampling=sampling)
    stream = Engine(tiny_llama).stream(PROMPT, sampling=sampling)
    with pytest.raises(RuntimeError, match="last chunk"):
        _ = stream.result
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == whole.text == stream.result.text
    assert tuple(t for chunk in chunks for t in chunk.tokens) == whole.tokens


def test_seed_repeats_and_differs(tiny_llama: LanguageModel) -> None:
    def run(seed: int) -> tuple[int, ...]:
        sampling = Sampling(max_new_tokens=30, temperature=1.5, seed=seed)
        return Engine(tiny_llama).generate(PROMPT, sampling=sampling).tokens

    assert run(1) == run(1)
    assert len({run(seed) for seed in range(4)}) > 1


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(1, 20), length=st.integers(1, 3))
def test_stop_strings_cut_the_text(tiny_llama: LanguageModel, at: int, length: int) -> None:
    """Cut at the first occurrence, with and without drafts alike; the tokens up to the cut are kept."""
    whole = Engine(tiny_llama).generate(PROMPT, sampling=Sampling(max_new_tokens=30)).text
    stop = whole[at : at + length]
    if not stop:
        return
    sampling = Sampling(max_new_tokens=30, stop=(stop,))
    plain = Engine(tiny_llama).generate(PROMPT, sampling=sampling)
    assert plain.text == whole[: whole.index(stop)]
    assert plain.stop_reason == "stop"
    drafting = Engine(tiny_llama, drafter="token_recycling")
    always_draft(drafting)
    for _ in range(2):
        assert drafting.generate(PROMPT, sampling=sampling).tokens == plain.tokens


def test_interleaved_requests_do_not_disturb_each_other(tiny_llama: LanguageModel) -> None:
    engine = Engine(tiny_llama, attention="h2o:budget=24,interval=4", drafter="token_recycling")
    always_draft(engine)
    prompts = ["one two three four five six", "six five four three two one"]
    sampling = Sampling(max_new_tokens=24)
    alone = [
        Engine(tiny_llama, attention="h2o:budget=24,interval=4").generate(p, sampling=sampling).tokens for p in prompts
    ]
    streams = [engine.stream(p, sampling=sampling) for p in prompts]
    running = list(streams)
    while running:
        running = [stream for stream in running if next(stream, None) is not None]
    assert [stream.result.tokens for stream in streams] == alone


def test_score_is_the_log_softmax_of_the_model(tiny_llama: LanguageModel) -> None:
    score = Engine(tiny_llama).score(PROMPT, " two three")
    tokens = [*tiny_llama.encode_prompt(PROMPT, chat=False), *score.tokens]
    with torch.inference_mode():
        logits = tiny_llama.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)
    first = len(tokens) - len(score.tokens) - 1
    for i, (token, logprob, rank) in enumerate(zip(score.tokens, score.logprobs, score.ranks, strict=True)):
        row = logits[first + i]
        assert logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert rank == int((row > row[token]).sum())


BOOK = Document("book.txt", "\n\n".join(f"Paragraph {i}. The {w} lives in house number {i}." for i, w in enumerate(
    ["baker", "miller", "tailor", "doctor", "sailor", "farmer", "singer", "painter", "lawyer",
     "carpenter"] * 3)))  # fmt: skip


def test_the_ledger_adds_up(tiny_chat_llama: LanguageModel) -> None:
    engine = Engine(
        tiny_chat_llama, context="truncate:budget=200", attention="h2o:budget=64,interval=8", drafter="token_recycling"
    )
    always_draft(engine)
    result = engine.generate("Where does the sailor live?", documents=[BOOK], sampling=Sampling(max_new_tokens=30))
    context, tokenized, attention, decode = result.ledger.rows
    assert [row.stage for row in result.ledger.rows] == ["context", "tokenize", "attention", "decode"]
    assert context.tokens_in == tiny_chat_llama.count(BOOK.text)
    assert context.tokens_out == tiny_chat_llama.count(result.selection.render())
    assert tokenized.tokens_in == context.tokens_out
    assert tokenized.tokens_out == context.tokens_out + tokenized.counts["instruction"] == result.prompt_tokens <= 200
    assert attention.tokens_in == result.prompt_tokens
    # the last token given never went through the model
    assert attention.counts["seen"] == result.prompt_tokens + len(result.tokens) - 1
    assert attention.counts["held"] + attention.counts["evicted"] == attention.counts["seen"]
    assert attention.counts["attended"] == attention.counts["attendable"]  # one chunk, nothing evicted before its end
    assert decode.counts["attended"] < decode.counts["attendable"]
    assert decode.tokens_out == len(result.tokens)
    assert decode.counts["drafted"] == decode.counts["accepted"] + decode.counts["rejected"]
    assert decode.tokens_out == 1 + decode.forward_passes + decode.counts["accepted"] + decode.counts["forced"]
    for row in result.ledger.rows:
        assert row.seconds >= 0
        for saving in row.savings:
            assert saving.share == pytest.approx(1 - saving.with_ / saving.without)


def test_choices_give_one_of_the_strings(tiny_llama: LanguageModel) -> None:
    options = ("two three", "two", "seventeen")
    for temperature in (0.0, 2.0):
        sampling = Sampling(max_new_tokens=40, temperature=temperature, seed=0)
        result = Engine(tiny_llama).generate(
            PROMPT, constraint='choices:options=["two three","two","seventeen"]', sampling=sampling
        )
        assert result.text in options
        assert result.stop_reason == "end"
    decode = result.ledger.row("decode")
    assert decode.tokens_out == 1 + decode.forward_passes + decode.counts["accepted"] + decode.counts["forced"]


def test_forced_tokens_are_drafted(tiny_llama: LanguageModel) -> None:
    """A single choice of many tokens takes far fewer passes than tokens."""
    result = Engine(tiny_llama).generate(PROMPT, constraint='choices:options=["seventeen thousand zebras"]')
    assert result.text == "seventeen thousand zebras"
    assert result.ledger.row("decode").forward_passes < len(result.tokens) - 2


class NeedsWings(AttentionPolicy):
    name = "needs_wings"
    needs = ("wings",)


def test_a_need_that_nobody_gives_names_both_sides(tiny_llama: LanguageModel) -> None:
    with pytest.raises(CompositionError, match=r"needs_wings.*attention stage.*wings"):
        Engine(tiny_llama, attention=NeedsWings())


def test_errors_name_the_argument(tiny_llama: LanguageModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    engine = Engine(tiny_llama)
    with pytest.raises(ArgumentError, match="prompt and messages"):
        engine.generate()
    with pytest.raises(ArgumentError, match="prompt and messages"):
        engine.generate("a", messages=[{"role": "user", "content": "b"}])
    with pytest.raises(ArgumentError, match="prompt="):
        engine.generate("")
    with pytest.raises(ChatTemplateError):
        engine.generate(messages=[{"role": "user", "content": "b"}])
    with pytest.raises(ArgumentError, match="sampling="):
        engine.generate("a", sampling=3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="h2o"):
        Engine(tiny_llama, attention="h20")
    with pytest.raises(SpecError, match="budget"):
        Engine(tiny_llama, attention="h2o:budgets=3")
    with pytest.raises(SpecError, match="AttentionPolicy"):
        Engine(tiny_llama, attention="token_recycling")
    with pytest.raises(BudgetError, match="window"):
        engine.generate("one " * 5000)
    with pytest.raises(DocumentError, match=r"none\.txt"):
        engine.generate("a?", documents=[tmp_path / "none.txt"])
    with pytest.raises(ArgumentError, match="prefill_chunk"):
        Engine(tiny_llama, prefill_chunk=0)
    with pytest.raises(ArgumentError, match=r"^drafter_state=5"):
        Engine(tiny_llama, drafter="prompt_lookup", drafter_state=5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^offload=5"):
        Engine(tiny_llama, offload=5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^documents=5"):
        engine.generate("a?", documents=[5])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match=r"^continuation=5"):
        engine.score("a", 5)  # type: ignore[arg-type]


def test_budget_errors_name_the_least_that_works(tiny_chat_llama: LanguageModel) -> None:
    question = "Where does the sailor live?"
    with pytest.raises(BudgetError, match="the question with its instructions alone") as caught:
        Engine(tiny_chat_llama, context="truncate:budget=10").generate(question, documents=[BOOK])
    minimum = int(caught.value.valid.split()[2].rstrip(":"))
    with pytest.raises(BudgetError, match=f"at least {minimum}"):
        Engine(tiny_chat_llama, context=f"truncate:budget={minimum - 1}").generate(question, documents=[BOOK])
    result = Engine(tiny_chat_llama, context=f"truncate:budget={minimum}").generate(
        question, documents=[BOOK], sampling=Sampling(max_new_tokens=2)
    )
    assert result.prompt_tokens <= minimum
    with pytest.raises(BudgetError, match="window"):
        Engine(tiny_chat_llama, context="truncate:budget=100000").generate(question, documents=[BOOK])


@pytest.mark.model
def test_greedy_equals_transformers_on_the_real_model(smollm2: LanguageModel, alice: str) -> None:
    for prompt in ("The capital of France is", alice[5000:7000]):
        expected = transformers_greedy(smollm2, prompt, 32)
        assert list(Engine(smollm2).generate(prompt, sampling=Sampling(max_new_tokens=32)).tokens) == expected


@pytest.mark.model
def test_full_budget_policies_give_dense_logits(smollm2: LanguageModel, alice: str) -> None:
    """The issue's bound: max abs difference under 1e-3 in fp32."""
    prompt, continuation = alice[5000:7000], alice[7000:7100]
    dense = Engine(smollm2).score(prompt, continuation)
    for spec in ("h2o:budget=4096", "token_select:budget=4096"):
        score = Engine(smollm2, attention=spec).score(prompt, continuation)
        assert max(abs(a - b) for a, b in zip(score.logprobs, dense.logprobs, strict=True)) < 1e-3


@pytest.mark.model
def test_asks_a_real_book(smollm2: LanguageModel, alice_path) -> None:  # type: ignore[no-untyped-def]
    """The main job: a book longer than the model's window, a strict budget, cited passages, all methods at once."""
    engine = tokloom.Engine(
        smollm2, context="context_bubble:budget=700", attention="token_select:budget=256", drafter="token_recycling"
    )
    result = engine.generate("What did Alice find on the little glass table?", documents=[alice_path])
    assert result.prompt_tokens <= 700
    assert result.ledger.row("context").tokens_in > smollm2.window
    text = alice_path.read_text(encoding="utf-8")
    assert any("golden key" in span.text for span in result.citations)
    assert all(text[span.start : span.end] == span.text for span in result.citations)


def test_a_text_that_its_type_refuses_is_not_lost(tiny_llama: LanguageModel) -> None:
    class Shift(pydantic.BaseModel):
        hours: int

        @pydantic.field_validator("hours")
        @classmethod
        def never(cls, value: int) -> int:
            raise ValueError("no shift is like that")

    constraint = JsonSchema(schema=Shift, whitespace="compact")
    sampling = Sampling(max_new_tokens=80, temperature=1.0, seed=2)
    result = Engine(tiny_llama).generate("one", constraint=constraint, sampling=sampling)
    assert result.stop_reason == "end"
    assert json.loads(result.text).keys() == {"hours"}
    assert result.parsed is None
    assert result.parse_error is not None
    assert "no shift is like that" in result.parse_error
    assert result.as_json()["parse_error"] == result.parse_error
