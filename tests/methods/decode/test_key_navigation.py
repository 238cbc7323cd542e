"""In-context navigation: the prompt with its list, the first token's mask, and right answers of a real model."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.errors import SpecError
from tokloom.methods.decode.key_navigation import PENALTY, KeyNavigation
from tokloom.models.language_model import LanguageModel

PROMPT = "Name some numbers.\n\n"


def test_the_list_in_context() -> None:
    assert KeyNavigation().listed() == "1."
    assert KeyNavigation(explored=(" one", " two")).listed() == "1. one\n2. two\n3."
    assert KeyNavigation(explored=("one",), before='- "', after='"\n').listed() == '- "one"\n- "'


@pytest.mark.parametrize("drafter", [None, "token_recycling"])
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_the_text_is_that_after_the_list_with_another_beginning(
    family: str, drafter: str | None, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    explored: tuple[str, ...] = ()
    for _ in range(4):  # what it says becomes explored
        options = KeyNavigation(explored=explored)
        context = [*model.encode_prompt(PROMPT, chat=False), *model.encode(options.listed())]
        firsts = [model.encode(text)[0] for text in explored]
        expected: list[int] = []
        while len(expected) < 8 and not (expected and expected[-1] in model.eos_ids):
            with torch.inference_mode():
                logits = model.model(torch.tensor([[*context, *expected]])).logits[0, -1]
            if not expected:
                logits = logits.clone()
                logits[firsts] = -torch.inf
            expected.append(int(logits.argmax()))
        engine = Engine(model, predictor=options, drafter=drafter)
        if drafter is not None:
            always_draft(engine)
        result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=8))
        assert list(result.tokens) == expected
        explored = (*explored, model.vocabulary.token_bytes[expected[0]].decode(errors="ignore") or "x")


def after_list(model: LanguageModel, options: KeyNavigation, output: list[int]) -> torch.Tensor:
    """Logits after prompt, list and output, by transformers alone; at the output's start less what is explored."""
    context = [*model.encode_prompt(PROMPT, chat=False), *model.encode(options.listed()), *output]
    with torch.inference_mode():
        logits = model.model(torch.tensor([context])).logits[0, -1]
    logits = logits.clone()
    if not output:
        logits[[model.encode(text)[0] for text in options.explored]] -= PENALTY
    return logits


EXPLORED = KeyNavigation(explored=("one", "two"))


def test_it_streams_and_stops_as_any_prediction(tiny_llama: LanguageModel) -> None:
    engine, sampling = Engine(tiny_llama, predictor=EXPLORED), Sampling(max_new_tokens=16, temperature=1.2, seed=5)
    whole = engine.generate(PROMPT, sampling=sampling)
    stream = engine.stream(PROMPT, sampling=sampling)
    chunks = list(stream)
    assert len(chunks) > 4
    assert "".join(chunk.text for chunk in chunks) == stream.result.text == whole.text
    stop = whole.text[5:7]
    cut = engine.generate(PROMPT, sampling=replace(sampling, stop=(stop,)))
    assert cut.stop_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    seeds = [engine.generate(PROMPT, sampling=replace(sampling, seed=seed)).tokens for seed in (5, 6)]
    assert seeds[0] == whole.tokens != seeds[1]


def test_log_probabilities_are_those_after_the_list(tiny_llama: LanguageModel) -> None:
    text = "three four"
    score = Engine(tiny_llama, predictor=EXPLORED).score(PROMPT, text)
    tokens = tiny_llama.encode(text)
    expected = [
        float(after_list(tiny_llama, EXPLORED, tokens[:i]).log_softmax(-1)[token]) for i, token in enumerate(tokens)
    ]
    assert score.logprobs == pytest.approx(expected, abs=1e-4)


def test_several_requests_and_samples_are_those_of_single_ones(tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=10, temperature=1.0, seed=3)
    for prefix_bytes in (0, 2**24):
        engine = Engine(tiny_llama, predictor=EXPLORED, prefix_bytes=prefix_bytes, prefill_chunk=4)
        prompts = [PROMPT, "one two three", PROMPT + "four"]
        single = [engine.generate(prompt, sampling=sampling).tokens for prompt in prompts]
        assert [result.tokens for result in engine.generate_many(prompts, sampling=sampling)] == single
        drawn = engine.sample(PROMPT, n=3, sampling=sampling)
        each = [engine.generate(PROMPT, sampling=replace(sampling, seed=3 + i)).tokens for i in range(3)]
        assert [result.tokens for result in drawn] == each


@pytest.mark.parametrize("drafter", [None, "token_recycling"])
def test_a_search_goes_over_what_it_predicts(drafter: str | None, tiny_llama: LanguageModel) -> None:
    """Beam search by hand, everything computed anew."""
    length, width = 5, 3
    beam: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(length):
        grown = []
        for output, logprob in beam:
            if output and output[-1] in tiny_llama.eos_ids:
                grown.append((output, logprob))
                continue
            values, tokens = after_list(tiny_llama, EXPLORED, output).log_softmax(-1).topk(width)
            grown += [
                ([*output, token], logprob + value)
                for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
            ]
        beam = sorted(grown, key=lambda each: -each[1])[:width]
    engine = Engine(
        tiny_llama, predictor=EXPLORED, drafter=drafter, search=f"beam_search:width={width},expansions={width}",
        verifier="log_probability:mean=false",
    )  # fmt: skip
    result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=length))
    assert list(result.tokens) == beam[0][0]
    assert result.ledger.row("decode").counts["explored"] == 2


def test_a_constraint_outweighs_the_penalty(tiny_llama: LanguageModel) -> None:
    engine = Engine(tiny_llama, predictor=KeyNavigation(explored=("yes", "no")))
    result = engine.generate(PROMPT, constraint='choices:options=["yes","no"]')
    assert result.text in ("yes", "no")


def test_a_bad_frame_is_refused() -> None:
    with pytest.raises(SpecError, match="key_navigation:before"):
        KeyNavigation(before="{name}. ")


QUESTIONS = {
    "The months of the year": "january february march april may june july august september october november december",
    "Some colors": "red orange yellow green blue indigo violet purple pink black white gray brown",
    "Some fruits": "apple apples banana orange pear grape mango strawberries peach plum cherry lemon raspberries",
}


def named(text: str, right: str) -> str:
    """The first right answer among the words of a text, empty if there is none."""
    return next((word for word in re.findall("[a-z]+", text.lower()) if word in right.split()), "")


@pytest.mark.model
def test_effect_more_right_answers_than_down_one_ranking(smollm2: LanguageModel) -> None:
    """Of the first five tokens of one ranking, completed, fewer are right than of five that were navigated to."""
    right = {"one ranking": 0, "navigation": 0}
    sampling = Sampling(max_new_tokens=4, stop=("\n",))
    for question, answers in QUESTIONS.items():
        prompt = f"{question}:\n"
        found: list[str] = []
        for _ in range(5):
            engine = Engine(smollm2, predictor=KeyNavigation(explored=tuple(found)))
            found.append(engine.generate(prompt, sampling=sampling).text)
        assert len({smollm2.encode(text)[0] for text in found}) == 5
        with torch.inference_mode():
            ranking = smollm2.model(torch.tensor([smollm2.encode(f"{prompt}1.")])).logits[0, -1]
        down = [smollm2.decode([token]) for token in ranking.topk(5).indices.tolist()]
        down = [begun + Engine(smollm2).generate(f"{prompt}1.{begun}", sampling=sampling).text for begun in down]
        for name, texts in (("one ranking", down), ("navigation", found)):
            right[name] += len({named(text, answers) for text in texts} - {""})
    assert right["navigation"] > right["one ranking"]
