"""The `choices` constraint: its options, and its matcher against a mask made by trying every token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokloom import registry
from tokloom._core import TokenTrie
from tokloom.decode.constraint import Constraint
from tokloom.errors import ArgumentError, SpecError
from tokloom.methods.decode.choices import Choices, ChoicesMatcher

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel
    from tokloom.tokenize.vocabulary import Vocabulary


@dataclass(frozen=True)
class TinyVocabulary:
    """What a constraint needs of a vocabulary, made of a few tokens."""

    token_bytes: list[bytes]
    eos_ids: frozenset[int]

    @property
    def size(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def trie(self) -> TokenTrie:
        return TokenTrie(self.token_bytes)


EOS, PAD = 0, 1


def tiny(*tokens: str | bytes, bytes_too: bool = True) -> Vocabulary:
    """Two special tokens, the given ones, and every single byte, as byte-level vocabularies have."""
    given_ones = [t.encode() if isinstance(t, str) else t for t in tokens]
    single = [bytes([b]) for b in range(256)] if bytes_too else []
    return cast("Vocabulary", TinyVocabulary([b"", b"", *given_ones, *single], frozenset({EOS})))


def masked(matcher: ChoicesMatcher, vocabulary: Vocabulary) -> set[int]:
    out = np.full((vocabulary.size + 31) // 32, -1, np.int32)
    matcher.mask(out)
    return set(np.flatnonzero(np.unpackbits(out.view(np.uint8), bitorder="little")).tolist())


def brute_force(vocabulary: Vocabulary, options: tuple[str, ...], output: bytes) -> set[int]:
    """For a vocabulary with all single bytes, which spells everything."""
    texts = [option.encode() for option in options]
    fitting = {i for i, t in enumerate(vocabulary.token_bytes) if t and any(o.startswith(output + t) for o in texts)}
    return fitting | (set(vocabulary.eos_ids) if output in texts else set())


WORDS = st.text(alphabet="ab é🦊", min_size=1, max_size=6)


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=3) | WORDS.map(str.encode), max_size=40),
    options=st.lists(WORDS, min_size=1, max_size=6, unique=True).map(tuple),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_masks_equal_a_trial_of_every_token_and_the_output_is_an_option(
    pieces: list[bytes], options: tuple[str, ...], data: st.DataObject
) -> None:
    vocabulary = tiny(*pieces)
    matcher = Choices(options).start(vocabulary)
    output = b""
    while True:
        expected = brute_force(vocabulary, options, output)
        assert masked(matcher, vocabulary) == expected
        assert matcher.is_complete == (EOS in expected)
        forced = matcher.forced()
        assert bool(forced) == (len(expected) == 1)
        assert set(forced[:1]) <= expected
        token = data.draw(st.sampled_from(sorted(expected)))
        matcher.accept(token)
        if token == EOS:
            break
        output += vocabulary.token_bytes[token]
    assert output.decode() in options
    assert matcher.is_complete
    assert masked(matcher, vocabulary) == set()
    assert matcher.forced() == []


@given(
    options=st.lists(WORDS, min_size=1, max_size=4, unique=True).map(tuple),
    back=st.integers(0, 6),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_rollback_is_the_state_before_and_forks_are_independent(
    options: tuple[str, ...], back: int, data: st.DataObject
) -> None:
    vocabulary = tiny("ab", "a ", "é", "🦊")
    matcher = Choices(options).start(vocabulary)
    seen = [(masked(matcher, vocabulary), matcher.forced(), matcher.is_complete)]
    while seen[-1][0]:
        matcher.accept(data.draw(st.sampled_from(sorted(seen[-1][0]))))
        seen.append((masked(matcher, vocabulary), matcher.forced(), matcher.is_complete))
    back = min(back, len(seen) - 1)
    fork = matcher.fork()
    fork.rollback(back)
    assert (masked(fork, vocabulary), fork.forced(), fork.is_complete) == seen[-1 - back]
    assert (masked(matcher, vocabulary), matcher.forced(), matcher.is_complete) == seen[-1]
    matcher.rollback(len(seen) - 1)
    assert (masked(matcher, vocabulary), matcher.forced(), matcher.is_complete) == seen[0]


def test_forced_runs_up_to_the_next_choice() -> None:
    vocabulary = tiny("un", "likely", "known", bytes_too=False)
    matcher = Choices(("unlikely", "unknown")).start(vocabulary)
    assert matcher.forced() == [2]
    matcher.accept(2)
    assert matcher.forced() == []
    matcher.accept(3)
    assert matcher.is_complete
    assert matcher.forced() == [EOS]


def test_forced_stops_where_the_output_may_end_or_go_on() -> None:
    vocabulary = tiny("yes", " sir", bytes_too=False)
    matcher = Choices(("yes", "yes sir")).start(vocabulary)
    assert matcher.forced() == [2]
    matcher.accept(2)
    assert masked(matcher, vocabulary) == {EOS, 3}
    assert matcher.forced() == []


def test_the_end_is_not_forced_where_two_tokens_can_end_the_output() -> None:
    vocabulary = cast("Vocabulary", TinyVocabulary([b"", b"", b"yes"], frozenset({EOS, PAD})))
    matcher = Choices(("yes",)).start(vocabulary)
    matcher.accept(2)
    assert masked(matcher, vocabulary) == {EOS, PAD}
    assert matcher.forced() == []


def test_a_character_may_be_split_between_tokens() -> None:
    vocabulary = tiny(b"caf\xc3", b"\xa9", bytes_too=False)
    matcher = Choices(("café",)).start(vocabulary)
    assert matcher.forced() == [2, 3]


@pytest.mark.parametrize("token", [PAD, EOS, 3, -1, 10_000])
def test_a_masked_token_is_refused_and_changes_nothing(token: int) -> None:
    vocabulary = tiny("yes", "no", "maybe")
    matcher = Choices(("yes",)).start(vocabulary)
    before = masked(matcher, vocabulary)
    with pytest.raises(ArgumentError, match=rf"token={token} is not valid"):
        matcher.accept(token)
    assert masked(matcher, vocabulary) == before


def test_nothing_is_accepted_after_the_end() -> None:
    matcher = Choices(("yes",)).start(tiny("yes"))
    matcher.accept(2)
    matcher.accept(EOS)
    with pytest.raises(ArgumentError, match="token=0"):
        matcher.accept(EOS)
    matcher.rollback(1)
    matcher.accept(EOS)
    assert matcher.is_complete


@pytest.mark.parametrize(("count", "valid"), [(2, "at most 1"), (-1, "an integer >= 0")])
def test_rollback_refuses_what_was_not_accepted(count: int, valid: str) -> None:
    vocabulary = tiny("yes")
    matcher = Choices(("yes",)).start(vocabulary)
    matcher.accept(2)
    with pytest.raises(ArgumentError, match=valid):
        matcher.rollback(count)
    assert masked(matcher, vocabulary) == {EOS}


def test_an_option_that_the_vocabulary_cannot_spell_is_refused_at_the_start() -> None:
    vocabulary = tiny("yes", "n", bytes_too=False)
    with pytest.raises(ArgumentError, match=r"choices:options='no' is not valid: .* can spell"):
        Choices(("yes", "no")).start(vocabulary)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "at least one string"),
        (("yes", ""), "strings that are not empty"),
        (("yes", "no", "yes"), "'yes' is given twice"),
        (("yes", 1), "valid string"),
        ("yes", "valid tuple"),
        (("\ud800",), "Unicode text"),
    ],
)
def test_bad_options_are_refused_by_name(options: Any, complaint: str) -> None:
    with pytest.raises(SpecError, match=rf"choices:options=.*{complaint}"):
        Choices(options)


def test_a_spec_makes_the_same_constraint_again() -> None:
    constraint = registry.build('choices:options=["yes","no, never"]', Constraint, "constraint")
    assert constraint == Choices(("yes", "no, never"))
    assert registry.build(registry.spec_of(constraint), Constraint, "constraint") == constraint


@pytest.mark.model
def test_masks_on_a_real_vocabulary_equal_a_trial_of_every_token(smollm2: LanguageModel) -> None:
    options = (" Paris", " Par", "naïve 🦊", "yes")
    for option in options:
        matcher = Choices(options).start(smollm2.vocabulary)
        output = b""
        for token in smollm2.encode(option):
            assert masked(matcher, smollm2.vocabulary) == brute_force(smollm2.vocabulary, options, output)
            matcher.accept(token)
            output += smollm2.vocabulary.token_bytes[token]
        assert output == option.encode()
        assert matcher.is_complete
