"""Added control tokens without the flag "special": no text becomes them, and they stand for no text."""

from __future__ import annotations

import pytest

from tests import tiny_models
from tokloom.errors import ArgumentError
from tokloom.methods.decode.regex import Regex
from tokloom.tokenize.control import chat_control_tokens, control_ids, text_backend
from tokloom.tokenize.vocabulary import Vocabulary

CONTROLS = ["<|fim_prefix|>", "<｜tool▁calls▁begin｜>", "<fim_middle>", "<unused7>"]
MARKS = ["<think>", "[TOOL]"]
WORDS = ["harbour", "<b>", "[1]", "<|", "a|b"]


@pytest.mark.parametrize("template", ["{{ messages }}<think>[TOOL]harbour", {"a": "<think>", "b": "[TOOL]"}])
def test_control_tokens_are_told_from_words(template: object) -> None:
    tokenizer = tiny_models.chat_tokenizer()
    tokenizer.add_tokens([*CONTROLS, *MARKS, *WORDS])
    tokenizer.chat_template = template
    ids = set(tokenizer.convert_tokens_to_ids(CONTROLS))
    assert control_ids(tokenizer) == ids
    assert set(chat_control_tokens(tokenizer)) == {*CONTROLS, *MARKS}
    tokenizer.chat_control_tokens = ["<b>"]
    assert "<b>" in chat_control_tokens(tokenizer)


def test_a_text_keeps_their_characters_and_words_their_tokens() -> None:
    tokenizer = tiny_models.chat_tokenizer()
    tokenizer.add_tokens(["<|fim_prefix|>", "harbour"])
    control, word = tokenizer.convert_tokens_to_ids(["<|fim_prefix|>", "harbour"])
    backend = text_backend(tokenizer, chat_control_tokens(tokenizer))
    backend.encode_special_tokens = True
    ids = backend.encode("the harbour<|fim_prefix|>").ids
    assert control not in ids
    assert word in ids
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert b"".join(vocabulary.token_bytes[id] for id in ids) == b"the harbour<|fim_prefix|>"
    assert "<|fim_prefix|>" in tokenizer.decode([control], skip_special_tokens=True)  # the tokenizer is left as it was


def test_a_constraint_takes_the_characters_but_not_the_token() -> None:
    tokenizer = tiny_models.chat_tokenizer()
    tokenizer.add_tokens(["<|fim_prefix|>"])
    vocabulary = Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    constraint = Regex(pattern=".*")
    with pytest.raises(ArgumentError):
        constraint.start(vocabulary).accept(tokenizer.convert_tokens_to_ids("<|fim_prefix|>"))
    matcher = constraint.start(vocabulary)
    matcher.accept_bytes(b"<|fim_prefix|>")
    assert matcher.is_complete
