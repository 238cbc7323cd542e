"""Threads, memory and depth."""

from __future__ import annotations

import itertools
import threading

import pytest

from tests.grammar.random_grammars import masked, vocabulary_of
from tests.grammar.test_matcher import NAMES, start
from tokloom.errors import GrammarError
from tokloom.grammar import compiled
from tokloom.grammar.compiled import compile_expression
from tokloom.grammar.expression import ANY_TEXT, Both, Chars, Concat, Either, Expression, Grammar, Ref, Repeat, text


def test_threads_share_a_grammar() -> None:
    vocabulary = vocabulary_of("(1", "+1", "1)", "))", "*(", alphabet=b"()+*0123456789")
    grammar = compile_expression(Grammar(Ref("sum"), NAMES), vocabulary)
    expected: dict[bytes, set[int]] = {}
    for output in (b"", b"(1", b"((1)+1", b"1*(2+3)"):
        alone = start(Ref("sum"), vocabulary_of("(1", "+1", "1)", "))", "*(", alphabet=b"()+*0123456789"), **NAMES)
        if output:
            alone.accept_bytes(output)
        expected[output] = masked(alone, vocabulary)
    failures: list[object] = []

    def work() -> None:
        for _ in range(50):
            for output, tokens in expected.items():
                matcher = grammar.matcher()
                for byte in output:
                    matcher.accept_bytes(bytes([byte]))
                if masked(matcher, vocabulary) != tokens:
                    failures.append(output)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_outgrown_parser_is_begun_anew_with_the_same_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "PARSER_LIMIT", 20_000)
    vocabulary = vocabulary_of("(1", "+1", "1)", alphabet=b"()+*0123456789")
    matcher = start(Ref("sum"), vocabulary, **NAMES)
    fresh = start(Ref("sum"), vocabulary, **NAMES)
    history = [b"("] * 40 + [b"1"] + [b")"] * 20
    for data in history:
        matcher.accept_bytes(data)
    assert matcher._last.state is not fresh._last.state
    matcher.rollback(20)
    fresh.accept_bytes(b"(" * 40 + b"1")
    assert masked(matcher, vocabulary) == masked(fresh, vocabulary)
    matcher.rollback(41)
    assert masked(matcher, vocabulary) == masked(start(Ref("sum"), vocabulary, **NAMES), vocabulary)


def test_a_grammar_beyond_the_limits_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "PARSER_LIMIT", 10_000)
    vocabulary = vocabulary_of(alphabet=b"ab")
    matcher = start(Ref("s"), vocabulary, s=Either((Concat((Ref("s"), Ref("s"))), text("a"), text("b"))))
    with pytest.raises(GrammarError, match="takes more than"):
        matcher.accept_bytes(b"ab" * 5000)


def test_deep_expressions_are_matched_but_for_intersections() -> None:
    vocabulary = vocabulary_of(alphabet=b"ab")
    deep: Expression = text("a")
    for _ in range(5000):
        deep = Concat((Either((deep, text("b"))), text("a")))
    matcher = start(deep, vocabulary)
    matcher.accept_bytes(b"a" * 5001)
    assert matcher.is_complete
    with pytest.raises(GrammarError, match="levels deep"):
        start(Both((deep, ANY_TEXT)), vocabulary).accept_bytes(b"a")


def test_long_chains_of_rules_and_deep_nesting_of_the_output() -> None:
    vocabulary = vocabulary_of(alphabet=b"ab")
    chain = {f"r{n}": Concat((Ref(f"r{n + 1}"), text("a"))) for n in range(20000)} | {"r20000": text("b")}
    matcher = start(Ref("r0"), vocabulary, **chain)
    matcher.accept_bytes(b"b" + b"a" * 20000)
    assert matcher.is_complete
    nested = start(Ref("n"), vocabulary, n=Either((Concat((text("a"), Ref("n"), text("b"))), text("ab"))))
    nested.accept_bytes(b"a" * 20000 + b"b" * 20000)
    assert nested.is_complete


def test_the_shared_automata_are_begun_anew_when_they_grow_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MASK_CACHE_LIMIT", 200_000)
    vocabulary, large = vocabulary_of("ab", "ba"), vocabulary_of("ab", "ba")
    first = start(Concat((text("a"), Repeat(text("ba"), 0, 50))), vocabulary)
    sizes = []
    for number in range(40):
        grammar = Grammar(Concat((text(f"{number}"), Repeat(Chars(((97, 97 + number),)), 5, 30), text("!"))), {})
        matcher = compile_expression(grammar, vocabulary).matcher()
        matcher.accept_bytes(f"{number}aaa".encode())
        monkeypatch.setattr(compiled, "MASK_CACHE_LIMIT", 1 << 30)
        expected = compile_expression(grammar, large).matcher()
        monkeypatch.setattr(compiled, "MASK_CACHE_LIMIT", 200_000)
        expected.accept_bytes(f"{number}aaa".encode())
        assert masked(matcher, vocabulary) == masked(expected, large)
        sizes.append(compile_expression(grammar, vocabulary).shared_nbytes)
    assert any(after < before for before, after in itertools.pairwise(sizes))
    first.accept_bytes(b"abab")
    assert masked(first, vocabulary) == {4, 4 + 2 + ord("a")}
