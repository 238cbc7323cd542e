"""The processor in transformers' own `generate`."""

from __future__ import annotations

import re

import pytest
import torch

from tokloom.errors import ArgumentError, SpecError
from tokloom.grammar.integrations.transformers import ConstraintLogitsProcessor
from tokloom.models.language_model import LanguageModel

OPTIONS = ["one two three", "one three", "four"]
SPEC = 'choices:options=["one two three","one three","four"]'


def processor(model: LanguageModel, spec: str = SPEC) -> ConstraintLogitsProcessor:
    size = model.vocabulary.size
    return ConstraintLogitsProcessor(spec, model.tokenizer, vocabulary_size=size, eos_ids=model.eos_ids)


def outputs(model: LanguageModel, ours: ConstraintLogitsProcessor, prompts: list[str], **options: object) -> list[str]:
    ids = [model.encode(prompt) for prompt in prompts]
    width = max(map(len, ids))
    batch = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    options = {"max_new_tokens": 24, "pad_token_id": 0, "eos_token_id": sorted(model.eos_ids), **options}
    made = model.model.generate(batch, attention_mask=mask, logits_processor=[ours], **options)
    return [model.tokenizer.decode(row[width:], skip_special_tokens=True) for row in made]


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 3.0},
        {"num_beams": 3, "do_sample": False},
        {"num_beams": 2, "num_return_sequences": 2, "do_sample": True},
    ],
)
def test_every_output_obeys(options: dict[str, object], tiny_llama: LanguageModel) -> None:
    torch.manual_seed(0)
    ours = processor(tiny_llama)
    found = outputs(tiny_llama, ours, ["one two", "five six seven eight", "nine"], **options)
    assert len(found) == 3 * int(str(options.get("num_return_sequences", 1)))
    assert set(found) <= set(OPTIONS)


def test_one_processor_serves_many_calls(tiny_llama: LanguageModel) -> None:
    ours = processor(tiny_llama)
    first = outputs(tiny_llama, ours, ["one two"])
    assert outputs(tiny_llama, ours, ["one two"]) == first
    assert set(outputs(tiny_llama, ours, ["six", "seven eight"])) <= set(OPTIONS)
    assert outputs(tiny_llama, ours, ["one two"]) == first


def test_a_regular_expression(tiny_llama: LanguageModel) -> None:
    torch.manual_seed(1)
    ours = processor(tiny_llama, r'regex:pattern="[a-c]{2,4}-\\d"')
    for text in outputs(tiny_llama, ours, ["one", "two"], do_sample=True):
        assert re.fullmatch(r"[a-c]{2,4}-\d", text)


def test_forbidden_scores_are_minus_infinity(tiny_llama: LanguageModel) -> None:
    ours = processor(tiny_llama)
    scores = torch.zeros(1, tiny_llama.vocabulary.size + 3)
    masked = ours(torch.tensor([[5, 6]]), scores)
    assert masked[0, -3:].isinf().all()
    assert (masked[0] == 0).any()
    assert (scores == 0).all()  # the caller's tensor is left alone


def test_refusals(tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="choices:options"):
        processor(tiny_llama, "choices")
    with pytest.raises(ArgumentError, match="eos_ids="):
        ConstraintLogitsProcessor(SPEC, tiny_llama.tokenizer, eos_ids=[])
    ours = processor(tiny_llama)
    ours(torch.tensor([[5]]), torch.zeros(1, tiny_llama.vocabulary.size))
    wrong = tiny_llama.encode("seven")[0]
    with pytest.raises(ArgumentError, match="token="):
        ours(torch.tensor([[5, wrong]]), torch.zeros(1, tiny_llama.vocabulary.size))


@pytest.mark.parametrize("prompts", [["one two"], ["one two", "nine"], ["nine", "nine"]])
@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 2}])
def test_nothing_left_to_choose_is_an_error(
    options: dict[str, object], prompts: list[str], tiny_llama: LanguageModel
) -> None:
    with pytest.raises(ArgumentError, match=r"only the end of the text.*min_new_tokens"):
        outputs(tiny_llama, processor(tiny_llama), prompts, min_new_tokens=20, **options)


def test_bad_words_and_suppressed_tokens_that_leave_nothing(tiny_llama: LanguageModel) -> None:
    table = tiny_llama.vocabulary.token_bytes
    firsts = [id for id, data in enumerate(table) if data and any(text.encode().startswith(data) for text in OPTIONS)]
    for options in ({"suppress_tokens": firsts}, {"bad_words_ids": [[id] for id in firsts]}):
        with pytest.raises(ArgumentError, match="no token that is left"):
            outputs(tiny_llama, processor(tiny_llama), ["one two"], **options)


def test_one_stuck_sequence_of_a_batch_is_an_error(tiny_llama: LanguageModel) -> None:
    ours, size = processor(tiny_llama), tiny_llama.vocabulary.size
    scores = torch.zeros(2, size)
    scores[1] = float("-inf")
    with pytest.raises(ArgumentError, match="logits_processor"):
        ours(torch.tensor([[5, 6], [5, 7]]), scores)
    with pytest.raises(ArgumentError, match="logits_processor"):
        processor(tiny_llama)(torch.tensor([[5, 6], [5, 6]]), scores)
    masked = processor(tiny_llama)(torch.tensor([[5, 6], [5, 6]]), scores - 10)  # as probabilities: of two beams
    assert masked.isfinite().any(-1).tolist() == [True, False]


def test_a_token_that_was_forced_on_one_of_a_batch_is_an_error(tiny_llama: LanguageModel) -> None:
    ours, size = processor(tiny_llama), tiny_llama.vocabulary.size
    ours(torch.tensor([[5, 6], [5, 7]]), torch.zeros(2, size))
    right, wrong = tiny_llama.encode("four")[0], tiny_llama.encode("seven")[0]
    with pytest.raises(ArgumentError, match="token="):
        ours(torch.tensor([[5, 6, right], [5, 7, wrong]]), torch.zeros(2, size))


def test_what_follows_an_end_is_finite_whatever_others_forbid(tiny_llama: LanguageModel) -> None:
    ours, size = processor(tiny_llama), tiny_llama.vocabulary.size
    prompt, output = [5, 6], [*tiny_llama.encode("four"), min(tiny_llama.eos_ids)]
    ours(torch.tensor([prompt]), torch.zeros(1, size))
    scores = torch.full((1, size), float("-inf"))
    assert ours(torch.tensor([prompt + output]), scores).softmax(-1).isfinite().all()
