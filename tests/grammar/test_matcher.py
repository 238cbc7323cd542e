"""The engine's masks and steps, against the naive matcher with every token tried, and against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.grammar import naive
from tests.grammar.random_grammars import (
    EOS,
    SPECIALS,
    TinyVocabulary,
    brute_force,
    bytes_of,
    grammars,
    masked,
    tokens_of,
    vocabularies,
    vocabulary_of,
)
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.compiled import compile_expression
from tokloom.grammar.expression import (
    ANY_CHAR,
    ANY_TEXT,
    AnyOrder,
    Bytes,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Grammar,
    Literal,
    Member,
    Ref,
    Repeat,
    Special,
    text,
)
from tokloom.grammar.matcher import GrammarMatcher, masks

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel
    from tokloom.tokenize.vocabulary import Vocabulary

SLOW = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
STEPS = 4


def start(expression: Expression, vocabulary: Vocabulary, **rules: Expression) -> GrammarMatcher:
    return compile_expression(Grammar(expression, rules), vocabulary).matcher()


def compiled_or_empty(grammar: Grammar, vocabulary: Vocabulary) -> GrammarMatcher | None:
    """A matcher; None, rightly, if the language is empty."""
    try:
        return compile_expression(grammar, vocabulary).matcher()
    except GrammarError as error:
        problem = str(error)
    assume("may both be empty" not in problem)
    assert "no string" in problem
    assert naive.is_empty(grammar)
    return None


@given(grammar=grammars(), vocabulary=vocabularies(), data=st.data())
@SLOW
def test_masks_equal_a_trial_of_every_token(grammar: Grammar, vocabulary: Vocabulary, data: st.DataObject) -> None:
    matcher = compiled_or_empty(grammar, vocabulary)
    output = b""
    for _ in range(STEPS if matcher is not None else 0):
        assert matcher is not None
        expected = brute_force(vocabulary, grammar, output)
        assert masked(matcher, vocabulary) == expected
        assert matcher.is_complete == (EOS in expected)
        assert not matcher.is_stuck
        going_on = sorted(expected - {EOS})
        if not going_on:
            break
        token = data.draw(st.sampled_from(going_on))
        matcher.accept(token)
        output += bytes_of(vocabulary, token)


@given(grammar=grammars(), vocabulary=vocabularies(), data=st.data())
@SLOW
def test_trees_batches_forks_and_rollbacks_agree_with_single_steps(
    grammar: Grammar, vocabulary: Vocabulary, data: st.DataObject
) -> None:
    matcher = compiled_or_empty(grammar, vocabulary)
    assume(matcher is not None)
    assert matcher is not None
    parents, forks = [], []
    for _ in range(data.draw(st.integers(1, 6))):
        parent = data.draw(st.integers(-1, len(parents) - 1))
        before = matcher if parent < 0 else forks[parent]
        allowed = sorted(masked(before, vocabulary)) if before else []
        token = data.draw(st.sampled_from(allowed) if allowed else st.integers(0, vocabulary.size - 1))
        token = data.draw(st.just(token) | st.integers(0, vocabulary.size - 1))
        after = before.after(token) if before else None
        if before is not None:
            plain = super(GrammarMatcher, before).after(token)
            assert (after is not None) == (plain is not None) == (token in allowed)
            assert after is None or masked(after, vocabulary) == masked(plain, vocabulary)
        parents.append(parent)
        forks.append(after)
    words = (vocabulary.size + 31) // 32
    living = [fork for fork in forks if fork is not None]
    batch = np.full((len(living), words), -1, np.int32)
    masks(living, batch, threads=2)
    for fork, together in zip(living, batch, strict=True):
        assert masked(fork, vocabulary) == tokens_of(together)
    for parent, fork in reversed(list(zip(parents, forks, strict=True))):
        if fork is not None:
            before = matcher if parent < 0 else forks[parent]
            fork.rollback(1)
            assert masked(fork, vocabulary) == masked(before, vocabulary)


@given(grammar=grammars(), vocabulary=vocabularies(), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_forced_bytes_begin_every_continuation(grammar: Grammar, vocabulary: Vocabulary, data: st.DataObject) -> None:
    matcher = compiled_or_empty(grammar, vocabulary)
    assume(matcher is not None)
    assert matcher is not None
    for _ in range(data.draw(st.integers(0, 3))):
        allowed = sorted(masked(matcher, vocabulary) - {EOS})
        if not allowed:
            break
        matcher.accept(data.draw(st.sampled_from(allowed)))
    forced = matcher.forced_bytes()
    for token in masked(matcher, vocabulary):
        got = vocabulary.token_bytes[token]
        assert got.startswith(forced) or forced.startswith(got)
        assert got or not forced
    follower = matcher.fork()
    for token in matcher.forced():
        follower.accept(token)
    if forced:
        follower = matcher.fork()
        follower.accept_bytes(forced)
        beyond = {vocabulary.token_bytes[token][:1] for token in masked(follower, vocabulary)}
        assert follower.is_complete or len(beyond) > 1 or b"" in beyond


NAMES: dict[str, Expression] = {
    "sum": Either((Concat((Ref("sum"), text("+"), Ref("sum"))), Ref("term"))),
    "term": Either((Concat((Ref("term"), text("*"), Ref("atom"))), Ref("atom"))),
    "atom": Either((Concat((text("("), Ref("sum"), text(")"))), Repeat(Bytes(((48, 57),)), 1))),
}


def test_left_recursion_and_ambiguity_stay_small() -> None:
    vocabulary = vocabulary_of("(1", "+1", "1)", "))", "*(")
    matcher = start(Ref("sum"), vocabulary, **NAMES)
    matcher.accept_bytes(b"(" * 50 + b"1" + b"+1" * 60 + b")" * 49)
    assert not matcher.is_complete
    assert {vocabulary.token_bytes[t] for t in masked(matcher, vocabulary)} >= {b")", b"+1", b"*("}
    matcher.accept_bytes(b")")
    assert matcher.is_complete
    assert b")" not in {vocabulary.token_bytes[t] for t in masked(matcher, vocabulary)}
    assert compile_expression(Grammar(Ref("sum"), NAMES), vocabulary).nbytes < 8 << 20


@pytest.mark.parametrize(
    ("expression", "rules"),
    [
        (Ref("a"), {"a": Ref("a")}),
        (Ref("a"), {"a": Concat((Ref("a"), text("x")))}),
        (Concat((text("x"), Bytes(()))), {}),
        (Except(text("x"), ANY_TEXT), {}),
        (text("\x00"), {}),
    ],
)
def test_what_can_not_be_written_is_refused_when_compiled(expression: Expression, rules: dict[str, Expression]) -> None:
    with pytest.raises(GrammarError, match="no string of it can be written"):
        start(expression, vocabulary_of(alphabet=b"xyz"), **rules)


def test_counts_are_exact_and_large_ones_are_not_written_out() -> None:
    vocabulary = vocabulary_of("xx", "xxxx", alphabet=b"x")
    expression = Repeat(text("x"), 1000, 1003)
    matcher = start(expression, vocabulary)
    matcher.accept_bytes(b"x" * 999)
    assert not matcher.is_complete
    assert masked(matcher, vocabulary) == {4, 5, 6}
    matcher.accept_bytes(b"xx")
    assert masked(matcher, vocabulary) == {EOS, 4, 6}
    matcher.accept_bytes(b"xx")
    assert masked(matcher, vocabulary) == {EOS}
    huge = Repeat(Concat((text("x"), Ref("r"))), 0, 2**31 - 1)
    start(huge, vocabulary, r=Either((text("x"), Ref("r")))).accept_bytes(b"xx" * 100)


def test_long_tokens_do_not_reach_past_a_maximum() -> None:
    wide = Chars(((0x20, 0x21), (0x23, 0x10FFFF)))
    texts = [*("ab" * n for n in range(1, 40)), *("é" * n for n in range(1, 20)), 'ab"', '"', 'é"', 'abab"']
    vocabulary = vocabulary_of(*texts)
    for minimum, maximum in [(0, 10), (3, 10), (7, None), (0, 200), (100, 120)]:
        matcher = start(Concat((text('"'), Repeat(wide, minimum, maximum), text('"'))), vocabulary)
        matcher.accept_bytes(b'"ab')
        expected = set()
        for token, piece in enumerate(texts, 4):
            length = 2 + len(piece.rstrip('"'))
            if (maximum is None or length <= maximum) and (length >= minimum or not piece.endswith('"')):
                expected.add(token)
        assert masked(matcher, vocabulary) & set(range(4, 4 + len(texts))) == expected


def test_members_in_any_order_are_counted() -> None:
    order = AnyOrder((Member(text("a"), 1), Member(text("b")), Member(text("c"), 0, None)), text(","), 2, 4)
    vocabulary = vocabulary_of(alphabet=b"abc,")
    matcher = start(order, vocabulary)
    matcher.accept_bytes(b"c,c,c")
    assert {vocabulary.token_bytes[t] for t in masked(matcher, vocabulary)} == {b","}
    matcher.accept_bytes(b",")
    assert {vocabulary.token_bytes[t] for t in masked(matcher, vocabulary)} == {b"a"}
    matcher.accept_bytes(b"a")
    assert masked(matcher, vocabulary) == {EOS}


def test_special_tokens_are_matched_by_id() -> None:
    vocabulary = vocabulary_of("<x>", alphabet=b"ab<>x")
    matcher = start(Concat((text("a"), Special("<x>"), text("b"))), vocabulary)
    matcher.accept_bytes(b"a")
    assert masked(matcher, vocabulary) == {SPECIALS["<x>"]}
    with pytest.raises(ArgumentError, match="data="):
        matcher.accept_bytes(b"<x>")
    assert matcher.forced() == [SPECIALS["<x>"]]
    matcher.accept(SPECIALS["<x>"])
    matcher.accept_bytes(b"b")
    assert masked(matcher, vocabulary) == {EOS}
    with pytest.raises(GrammarError, match="no special token '<z>'"):
        start(Special("<z>"), vocabulary)


def test_after_the_end_nothing_may_come() -> None:
    vocabulary = vocabulary_of(alphabet=b"a")
    matcher = start(Repeat(text("a")), vocabulary)
    assert matcher.forced() == []
    matcher.accept(EOS)
    assert matcher.is_complete
    assert not matcher.is_stuck
    assert masked(matcher, vocabulary) == set()
    assert matcher.forced() == []
    with pytest.raises(ArgumentError, match="token=0"):
        matcher.accept(EOS)
    matcher.rollback(1)
    matcher.accept(4)
    assert masked(matcher, vocabulary) == {EOS, 4}


@pytest.mark.parametrize("token", [EOS, 1, 7, -1, 10_000])
def test_a_masked_token_is_refused_and_changes_nothing(token: int) -> None:
    vocabulary = vocabulary_of("yes", "no")
    matcher = start(text("yes"), vocabulary)
    with pytest.raises(ArgumentError, match=f"token={token} is not valid"):
        matcher.accept(token)
    assert vocabulary.token_bytes[matcher.forced()[0]] == b"yes"
    with pytest.raises(ArgumentError, match="at most 0"):
        matcher.rollback(1)
    with pytest.raises(ArgumentError, match=">= 0"):
        matcher.rollback(-1)


def test_forced_tokens_stop_where_a_longer_token_may_come() -> None:
    vocabulary = vocabulary_of("name", '":', '": ', '"')
    named = start(Concat((text('"name":'), Either((text(" 1"), text("2"))))), vocabulary)
    assert [vocabulary.token_bytes[t] for t in named.forced()] == [b'"', b"name"]
    only = start(Concat((text('"name":'), Either((text("3"), text("2"))))), vocabulary)
    assert [vocabulary.token_bytes[t] for t in only.forced()] == [b'"', b"name", b'":']
    whole = start(text('"name":'), vocabulary)
    for token in whole.forced():
        whole.accept(token)
    assert whole.forced() == [EOS]


def test_forced_leaves_a_cut_character_to_the_model() -> None:
    vocabulary = vocabulary_of("é")
    matcher = start(text("éa"), vocabulary)
    matcher.accept_bytes("é".encode()[:1])
    assert [vocabulary.token_bytes[t] for t in matcher.forced()] == ["é".encode()[1:]]
    either = start(Either((text("aé"), text("aê"))), vocabulary)
    assert either.forced_bytes() == b"a\xc3"
    assert [vocabulary.token_bytes[t] for t in either.forced()] == [b"a"]


def incomplete(*tokens: bytes) -> Vocabulary:
    return cast("Vocabulary", TinyVocabulary([b"", b"", b"", b"", *tokens]))


def test_a_vocabulary_without_single_bytes_is_not_led_into_dead_ends() -> None:
    vocabulary = incomplete(b"ab", b"abc", b"cd", b"d")
    matcher = start(Either((text("abcd"), text("abce"), text("abca"))), vocabulary)
    assert masked(matcher, vocabulary) == {4, 5}
    only = start(Either((text("abd"), text("abcb"))), vocabulary)
    assert masked(only, vocabulary) == {4}
    with pytest.raises(ArgumentError, match="token=5"):
        only.accept(5)
    only.accept_bytes(b"abcb")
    assert only.is_complete
    with pytest.raises(GrammarError, match="no string of it can be written"):
        start(text("abb"), vocabulary)
    matcher.accept_bytes(b"abca"[:3])
    assert not matcher.is_stuck
    stuck = start(Either((text("ab"), text("cb"))), vocabulary)
    stuck.accept_bytes(b"c")
    assert stuck.is_stuck
    assert masked(stuck, vocabulary) == set()


@given(
    options=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=6, unique=True),
    pieces=st.lists(st.text("abc", min_size=1, max_size=3).map(str.encode), min_size=1, max_size=8),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_what_is_left_can_always_be_spelled(options: list[str], pieces: list[bytes], data: st.DataObject) -> None:
    vocabulary = incomplete(*pieces)
    texts = [option.encode() for option in options]

    def spelled(rest: bytes) -> bool:
        return not rest or any(rest.startswith(piece) and spelled(rest[len(piece) :]) for piece in pieces)

    def expected(output: bytes) -> set[int]:
        tokens = {
            token
            for token, piece in enumerate(pieces, 4)
            if any(t.startswith(output + piece) and spelled(t[len(output + piece) :]) for t in texts)
        }
        return tokens | ({EOS} if output in texts else set())

    grammar = Grammar(Either(tuple(text(option) for option in options)), {})
    if not any(spelled(t) for t in texts):
        with pytest.raises(GrammarError, match="no string"):
            compile_expression(grammar, vocabulary)
        return
    matcher, output = compile_expression(grammar, vocabulary).matcher(), b""
    while allowed := sorted(expected(output) - {EOS}):
        assert masked(matcher, vocabulary) == expected(output)
        token = data.draw(st.sampled_from(allowed))
        matcher.accept(token)
        output += vocabulary.token_bytes[token]
    assert masked(matcher, vocabulary) == {EOS}


def test_text_up_to_a_trigger_and_free_characters() -> None:
    vocabulary = vocabulary_of("ab", "a<", "<t", "<tx", "b<tc", "é<", alphabet=bytes(range(256)))
    free = Except(ANY_TEXT, Concat((ANY_TEXT, text("<t"), ANY_TEXT)))
    grammar = Grammar(Concat((free, text("<t"), Repeat(text("x"), 1))), {})
    matcher = compile_expression(grammar, vocabulary).matcher()
    for output in (b"", b"a", "é".encode()[:1], b"<", b"a<t"):
        fork = matcher.fork()
        if output:
            fork.accept_bytes(output)
        assert masked(fork, vocabulary) == brute_force(vocabulary, grammar, output)
    assert masked(start(ANY_CHAR, vocabulary), vocabulary) == brute_force(vocabulary, Grammar(ANY_CHAR, {}), b"")


def test_forced_tokens_are_those_of_the_tokenizer(tiny_llama: LanguageModel, tiny_gemma3: LanguageModel) -> None:
    sentence = '{"the capital of France": "It is Paris, and é'
    for model in (tiny_llama, tiny_gemma3):
        vocabulary = model.vocabulary
        grammar = Grammar(Concat((text(sentence), Either((text(" x"), text("\n"))))), {})
        matcher = compile_expression(grammar, vocabulary).matcher()
        forced = matcher.forced()
        assert forced
        assert forced == vocabulary.tokenize(sentence)[: len(forced)]
        for token in forced:
            matcher.accept(token)
        rest = sentence.encode()[len(b"".join(vocabulary.token_bytes[token] for token in forced)) :]
        assert not rest or any(
            len(vocabulary.token_bytes[t]) > len(rest) for t in vocabulary.trie.tokens_with_prefix(rest)
        )
        matcher.accept_bytes(rest)
        assert masked(matcher, vocabulary)


def test_literal_bytes_that_are_not_text() -> None:
    vocabulary = vocabulary_of(b"\xff\xfe")
    matcher = start(Literal(b"\xff\xfe\x00"), vocabulary)
    assert masked(matcher, vocabulary) == {4, 4 + 1 + 0xFF}
    assert matcher.forced() == []
