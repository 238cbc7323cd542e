"""What the tokenizer can write next: its own encodings are allowed, and what is allowed to the end is its encoding."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from tokloom.errors import UnsupportedModelError
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.encodings import START, Encodings, Tail
from tokloom.tokenize.pieces import code_points, continuations, stand_in
from tokloom.tokenize.vocabulary import Vocabulary

PARTS = [
    "one", " two", "  ", " ", "\n\n", "\n", "\t", "'s", "'", "ll", "The", "1", "23", "!", "<", "/td>", "é", "e\u0301",
    "東京", "🙂", "\u00a0", "naïve", "x.y(", "ẞ", "\U00010348",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=10).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=20
)


def follow(encodings: Encodings, tokens: list[int]) -> Tail | None:
    """What was written, None where a token was not allowed."""
    written = START
    for token in tokens:
        if not encodings.followers(written)[token]:
            return None
        written = encodings.push(written, token)
    return written


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_the_tokenizers_own_encodings_are_allowed(family: str, request: pytest.FixtureRequest, text: str) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    written = follow(model.vocabulary.encodings, model.encode(text))
    assert written is not None
    assert model.vocabulary.encodings.is_complete(written)


def walks(model: LanguageModel, rounds: int, seed: int) -> int:
    """Random sequences of allowed tokens, mostly from texts that are full of borderline cases; how many were whole."""
    encodings, table = model.vocabulary.encodings, model.vocabulary.token_bytes
    draw = random.Random(seed)
    likely = sorted({token for _ in range(60) for token in model.encode("".join(draw.choices(PARTS, k=4)))})
    whole = 0
    for _ in range(rounds):
        written, tokens = START, []
        for _ in range(draw.randint(2, 7)):
            allowed = encodings.followers(written)
            options = [token for token in likely if allowed[token]] or np.flatnonzero(allowed).tolist()
            tokens.append(draw.choice(options))
            written = encodings.push(written, tokens[-1])
        if encodings.is_complete(written):
            text = b"".join(table[token] for token in tokens).decode()
            assert model.encode(text) == tokens, text
            whole += 1
    return whole


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_what_is_allowed_to_the_end_is_the_tokenizers_encoding(family: str, request: pytest.FixtureRequest) -> None:
    assert walks(request.getfixturevalue(family), 300, seed=2) > 150


@pytest.mark.model
def test_encodings_of_a_real_tokenizer(smollm2: LanguageModel, alice: str) -> None:
    encodings = smollm2.vocabulary.encodings
    for start in range(3000, 3600, 150):
        written = follow(encodings, smollm2.encode(alice[start : start + 150]))
        assert written is not None
        assert encodings.is_complete(written)
    assert walks(smollm2, 60, seed=4) > 30


@pytest.mark.model
def test_the_last_blank_may_belong_to_the_next_word(smollm2: LanguageModel) -> None:
    """Two blanks are one token at the end of a text, and two before a character that has no token with a blank."""
    encodings = smollm2.vocabulary.encodings
    both, apart = smollm2.encode("!  "), smollm2.encode("!  한")[:3]
    assert smollm2.decode(both) == smollm2.decode(apart) == "!  "
    assert [len(both), len(apart)] == [2, 3]
    for tokens, whole in ((both, True), (apart, False)):
        written = follow(encodings, tokens)
        assert written is not None
        assert encodings.is_complete(written) == whole


def test_a_character_without_token_is_bytes(tiny_gemma3: LanguageModel) -> None:
    """After its first byte only bytes follow that lead to a character without a token."""
    vocabulary = tiny_gemma3.vocabulary
    start = tiny_gemma3.encode("🙃")[:1]
    written = follow(vocabulary.encodings, start)
    assert written is not None
    assert not vocabulary.encodings.is_complete(written)
    allowed = np.flatnonzero(vocabulary.encodings.followers(written))
    assert {vocabulary.token_bytes[token] for token in allowed} == {bytes([byte]) for byte in range(0x90, 0xC0)}


@given(char=st.characters(exclude_categories=["Cs"]), cut=st.integers(1, 4))
def test_code_points_of_a_start(char: str, cut: int) -> None:
    data = char.encode()
    first, last = code_points(data[:cut])
    assert first <= ord(char) <= last
    assert (first == last) == (cut >= len(data))
    if cut < len(data):
        assert all(text.startswith(data[:cut]) and text.decode() for text in continuations(data[:cut]))


def test_stand_ins_keep_what_patterns_see() -> None:
    assert stand_in(b" hello", ((1, True), (3, True))) == (b" aa", ((1, True),))
    assert stand_in(b"HELLOworld 12345", ()) == (b"AAaa 12345", ())
    assert stand_in(b"don't", ((3, False),)) == (b"don't", ((3, False),))


def test_other_kinds_of_tokenizers_are_refused() -> None:
    backend = Tokenizer(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.ByteLevel()
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), 2)
    with pytest.raises(UnsupportedModelError, match="byte-pair"):
        _ = vocabulary.encodings
