"""The bytes of tokens: exact for every text, in both schemes, and refused where they can't be."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

import tokloom
from tests import tiny_models
from tokloom.errors import ArgumentError, UnsupportedModelError
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.vocabulary import Vocabulary

# The SentencePiece scheme writes spaces as ▁, so that a ▁ in the text comes back as a space: lossy by design.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60) | st.lists(
    st.sampled_from(
        ["one", " two", "  ", "\n\n", "\n", "\t", "<0x41>", "<eos>", "<|im_end|>", "é", "東京", "🙂", "\x00"]
    ),
    max_size=12,
).map("".join)


def joined(model: LanguageModel, text: str) -> bytes:
    return b"".join(model.vocabulary.token_bytes[token] for token in model.encode(text))


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_token_bytes_spell_the_text(family: str, request: pytest.FixtureRequest, text: str) -> None:
    assert joined(request.getfixturevalue(family), text) == text.encode()


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_a_prefix_space_is_one_space(text: str) -> None:
    """Llama 2's kind puts a space before the text, and takes it from the first token when decoding."""
    spelled = b"".join(
        PREFIXED.token_bytes[token]
        for token in PREFIXED_TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    )
    assert spelled == (b" " + text.encode() if text else b"")


PREFIXED_TOKENIZER = tiny_models.gemma_tokenizer(prefix_space=True)
PREFIXED = Vocabulary(PREFIXED_TOKENIZER, len(PREFIXED_TOKENIZER))


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_every_byte_has_a_token(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    assert {bytes((byte,)) for byte in range(256)} <= set(model.vocabulary.token_bytes)


@pytest.mark.parametrize("prefix", [b"", b" ", b" t", b"th", b"\xff", b"\xc3", b"zzz", b"\xff\xff"])
def test_tokens_that_begin_with_some_bytes(
    tiny_llama: LanguageModel, tiny_gemma3: LanguageModel, prefix: bytes
) -> None:
    for vocabulary in (tiny_llama.vocabulary, tiny_gemma3.vocabulary):
        expected = {id for id, data in enumerate(vocabulary.token_bytes) if data and data.startswith(prefix)}
        assert set(vocabulary.beginning_with(prefix).tolist()) == expected


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3"])
def test_special_and_padding_ids_have_no_bytes(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    vocabulary, tokenizer = model.vocabulary, model.tokenizer
    assert vocabulary.size == len(vocabulary.token_bytes) == model.model.lm_head.weight.shape[0]
    assert vocabulary.size == len(tokenizer) + 7  # the fixture pads its embedding
    empty = {id for id, content in enumerate(vocabulary.token_bytes) if not content}
    assert empty == vocabulary.special_ids | set(range(len(tokenizer), vocabulary.size))
    assert vocabulary.eos_ids == {tokenizer.eos_token_id} <= vocabulary.special_ids
    assert set(tokenizer.all_special_ids) <= vocabulary.special_ids


def test_eos_ids_are_special_even_if_the_tokenizer_does_not_say_so(tiny_llama: LanguageModel) -> None:
    vocabulary = Vocabulary(tiny_llama.tokenizer, 407, eos_ids=[100])
    assert 100 in vocabulary.special_ids
    assert vocabulary.token_bytes[100] == b""


def test_a_logits_row_narrower_than_the_tokenizer(tiny_llama: LanguageModel) -> None:
    assert Vocabulary(tiny_llama.tokenizer, 300).token_bytes == tiny_llama.vocabulary.token_bytes[:300]


def test_eos_ids_outside_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match=r"eos_ids=\[407\].*\[0, 407\)"):
        Vocabulary(tiny_llama.tokenizer, 407, eos_ids=[407])


def test_an_added_token_is_its_text(tiny_gemma3: LanguageModel) -> None:
    """An added token that is no special one stands for its characters, be they bytes of the map or not."""
    tokenizer = tiny_models.chat_tokenizer()
    first = len(tokenizer)
    tokenizer.add_tokens(["жé", "a b", "<0x41>"])
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.token_bytes[first:] == ["жé".encode(), b"a b", b"<0x41>"]
    double_newline = tiny_gemma3.tokenizer.get_vocab()["\n\n"]
    assert tiny_gemma3.vocabulary.token_bytes[double_newline] == b"\n\n"


@pytest.mark.parametrize(
    "decoder",
    [None, decoders.WordPiece(), decoders.BPEDecoder(), decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])],
)
def test_an_unknown_scheme_is_refused(decoder: decoders.Decoder | None) -> None:
    backend = Tokenizer(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    if decoder is not None:
        backend.decoder = decoder
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedModelError, match=r"decoder .*expected .*ByteLevel"):
        Vocabulary(tokenizer, 2)


def test_metaspace_decoders_are_known() -> None:
    backend = Tokenizer(WordPiece({"[UNK]": 0, "▁a": 1, "<0x41>": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")  # type: ignore[no-untyped-call]
    assert Vocabulary(tokenizer, 3).token_bytes == [b"", b" a", b"<0x41>"]  # without byte fallback it is text


def test_the_trie_holds_the_tokens(tiny_llama: LanguageModel) -> None:
    trie = tiny_llama.vocabulary.trie
    assert trie.size == tiny_llama.vocabulary.size
    for token in tiny_llama.encode("one two three"):
        assert token in trie.tokens_with_prefix(tiny_llama.vocabulary.token_bytes[token])
    assert tiny_llama.vocabulary.trie is trie


@pytest.mark.model
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_smollm2_spells_every_text(smollm2: LanguageModel, text: str) -> None:
    """But for the bytes of rare control and private characters, for which its tokenizer has no token and drops them."""
    known = set(smollm2.vocabulary.token_bytes)
    assert joined(smollm2, text) == bytes(byte for byte in text.encode() if bytes((byte,)) in known)
    assert {bytes((byte,)) for byte in (*range(0x20, 0x7F), *b"\n\r\t", *range(0x80, 0xC0), *range(0xC2, 0xF1))} < known


@pytest.mark.model
def test_smollm2_spells_a_book(smollm2: LanguageModel, alice: str) -> None:
    assert joined(smollm2, alice) == alice.encode()


@pytest.mark.paper
def test_gemma_spells_every_text(alice: str) -> None:
    """Converts Gemma-3-270M's 262 thousand tokens on first use, which takes a minute."""
    model = tokloom.load("gemma3-270m")
    assert joined(model, alice) == alice.encode()

    @settings(max_examples=300, deadline=None)
    @given(text=TEXTS)
    def check(text: str) -> None:
        assert joined(model, text) == text.encode()

    check()
    assert {bytes((byte,)) for byte in range(256)} <= set(model.vocabulary.token_bytes)
