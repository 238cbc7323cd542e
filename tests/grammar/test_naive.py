"""The reference itself, on cases small enough to decide by hand, and against Python's `re`."""

import itertools
import re

import pytest

from tests.grammar import naive
from tokloom.grammar.expression import (
    ANY_CHAR,
    ANY_TEXT,
    EMPTY,
    NOTHING,
    AnyOrder,
    Automaton,
    Both,
    Bytes,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Grammar,
    Member,
    Ref,
    Repeat,
    Special,
    text,
)

A, B, C = text("a"), text("b"), text("c")
LETTERS = Bytes(((97, 99),))
EVEN = Automaton((((97, 97, 1),), ((97, 97, 0),)), frozenset({0}))
TRAP = Automaton((((97, 97, 1), (98, 98, 2)), ((97, 97, 1),), ()), frozenset({2}))


def language(start: Expression, rules: dict[str, Expression] | None = None, alphabet="abc", size=5):
    """The words up to `size` letters, and the prefixes of words."""
    grammar = Grammar(start, rules or {})
    words = ["".join(letters) for n in range(size + 1) for letters in itertools.product(alphabet, repeat=n)]
    matched = {word for word in words if naive.matches(grammar, word.encode())}
    prefixes = {word for word in words if naive.is_prefix(grammar, word.encode())}
    return matched, prefixes


CASES: list[tuple[Expression, str]] = [
    (EMPTY, ""),
    (text("abc"), "abc"),
    (LETTERS, "[abc]"),
    (Concat((A, LETTERS, B)), "a[abc]b"),
    (Either((A, text("ab"), EMPTY)), "a|ab|"),
    (Concat((Either((A, text("ab"))), Either((C, text("bc"))))), "(a|ab)(c|bc)"),
    (Repeat(A), "a*"),
    (Repeat(Either((A, text("bb"))), 1, 2), "(a|bb){1,2}"),
    (Repeat(Repeat(A, 2, 2), 2, 2), "a{4}"),
    (Repeat(Either((EMPTY, A)), 2, 3), "a{0,3}"),
    (Repeat(Repeat(A)), "a*"),
    (Repeat(EMPTY, 50), ""),
    (Repeat(A, 0, 0), ""),
    (Both((Repeat(LETTERS), Concat((A, ANY_TEXT)), Concat((ANY_TEXT, C)))), "a[abc]*c"),
    (Except(Repeat(LETTERS, 1, 2), Either((A, text("bb")))), "(?!(a|bb)$)[abc]{1,2}"),
    (Except(ANY_TEXT, Concat((ANY_TEXT, B, ANY_TEXT))), "[^b]*"),
    (Except(ANY_TEXT, Except(ANY_TEXT, Repeat(A, 3))), "aaa+"),
    (EVEN, "(aa)*"),
    (TRAP, "b"),
    (Concat((EVEN, B)), "(aa)*b"),
    (Both((EVEN, Repeat(A, 3))), "(aa){2,}"),
    (Except(Repeat(A), EVEN), "a(aa)*"),
    (Concat((B, Repeat(TRAP, 2, 2))), "bbb"),
    (AnyOrder((Member(A), Member(B)), EMPTY), "|a|b|ab|ba"),
    (AnyOrder((Member(A, 1), Member(B)), C), "a|acb|bca"),
    (AnyOrder((Member(A, 0, None), Member(B)), EMPTY, 2, 3), "aa|aaa|ab|ba|aab|aba|baa"),
    (AnyOrder((Member(A, 2, 2), Member(B)), C), "aca|acacb|acbca|bcaca"),
    (AnyOrder((), C), ""),
    (AnyOrder((Member(Either((A, EMPTY)), 0, 2),), B, 2), "aba|ab|ba|b"),
    (Concat((AnyOrder((Member(A), Member(text("ab"))), C), Either((B, C)))), "(|a|ab|acab|abca)[bc]"),
]


@pytest.mark.parametrize(("expression", "pattern"), CASES)
def test_matches_is_what_re_says(expression, pattern):
    matched, prefixes = language(expression)
    words = ["".join(w) for n in range(6) for w in itertools.product("abc", repeat=n)]
    assert matched == {word for word in words if re.fullmatch(pattern, word)}
    # No word of these languages needs more than two letters beyond the fifth to be completed.
    reached = {word[:cut] for word in matched for cut in range(len(word) + 1)}
    assert {word for word in prefixes if len(word) < 3} == {word for word in reached if len(word) < 3}


@pytest.mark.parametrize(
    "dead",
    [
        NOTHING,
        Concat((A, NOTHING)),
        Concat((Repeat(A), Ref("loop"))),
        Repeat(NOTHING, 1),
        Both((Concat((A, ANY_TEXT)), Concat((B, ANY_TEXT)))),
        Both((Repeat(text("aa")), Concat((A, Repeat(text("aa")))))),
        Except(Repeat(A), ANY_TEXT),
        Except(A, A),
        Automaton((((97, 97, 1),), ((97, 97, 0),)), frozenset()),
        AnyOrder((Member(NOTHING, 1), Member(A)), C),
        AnyOrder((Member(A), Member(B)), C, 3),
        AnyOrder((Member(A), Member(B)), NOTHING, 2),
        Chars(((0xD800, 0xDFFF),)),
        Bytes(()),
    ],
)
def test_dead_ends(dead):
    rules = {"loop": Either((Concat((A, Ref("loop"))), Ref("loop")))}
    assert naive.is_empty(Grammar(dead, rules))
    assert not naive.matches(Grammar(dead, rules), b"a")
    # With a live way beside it, only that one can be begun.
    matched, prefixes = language(Either((Concat((A, dead)), text("bc"))), rules, size=3)
    assert (matched, prefixes) == ({"bc"}, {"", "b", "bc"})


def test_an_optional_dead_end_is_no_way():
    assert language(Concat((Repeat(NOTHING), A, Repeat(NOTHING, 0, 3))), size=3) == ({"a"}, {"", "a"})
    assert language(AnyOrder((Member(NOTHING), Member(A)), B), size=3) == ({"", "a"}, {"", "a"})
    assert language(AnyOrder((Member(A), Member(C)), NOTHING), size=3) == ({"", "a", "c"}, {"", "a", "c"})


def test_recursion_of_every_kind():
    left = {"x": Either((Concat((Ref("x"), B)), A))}
    assert language(Ref("x"), left)[0] == {"a", "ab", "abb", "abbb", "abbbb"}
    nested = {"x": Either((EMPTY, Concat((A, Ref("x"), B))))}
    begun = {"a" * n + "b" * m for n in range(6) for m in range(n + 1) if n + m < 6}
    assert language(Ref("x"), nested) == ({"", "ab", "aabb"}, begun)
    ambiguous = {"x": Either((Concat((Ref("x"), Ref("x"))), A, EMPTY))}
    assert language(Ref("x"), ambiguous)[0] == {"a" * n for n in range(6)}
    hidden = {"x": Either((Concat((Repeat(C), Ref("x"), B)), A))}
    assert {"a", "ab", "cab", "cabb"} < language(Ref("x"), hidden)[0]
    assert "ac" not in language(Ref("x"), hidden)[1]
    mutual = {"x": Either((Ref("y"), A)), "y": Either((Ref("x"), Concat((Ref("x"), B))))}
    assert language(Ref("y"), mutual)[0] == {"a", "ab", "abb", "abbb", "abbbb"}
    in_any_order = {"x": Concat((A, AnyOrder((Member(Ref("x")), Member(B)), C), A))}
    assert language(Ref("x"), in_any_order)[0] == {"aa", "aba", "aaaa", "aabaa"}


def test_characters_are_utf8():
    grammar = Grammar(Concat((Chars(((0x61, 0x61), (0xE9, 0x20AC), (0xFFFF, 0x10000))), ANY_CHAR)), {})
    for first in "aé€\uffff\U00010000":
        whole = (first + "ÿ").encode()
        assert naive.matches(grammar, whole)
        assert all(naive.is_prefix(grammar, whole[:cut]) for cut in range(len(whole) + 1))
    for bad in (
        "bÿ".encode(),
        "\u20adÿ".encode(),
        "\U00010001".encode(),
        b"a\xff",
        b"a\xc0",
        b"a\xed\xa0",
        b"a\xe0\x80",
    ):
        assert not naive.is_prefix(grammar, bad)


def test_every_character_is_in_its_range_only():
    bounds = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF, 0x12345, 0x3FFFF]
    for low, high in itertools.combinations_with_replacement(sorted(bounds), 2):
        grammar = Grammar(Chars(((low, high),)), {})
        for point in {p for b in bounds for p in (b - 1, b, b + 1)} - {-1, 0xD800, 0xDFFF, 0x110000}:
            assert naive.matches(grammar, chr(point).encode()) == (low <= point <= high)


def test_special_is_a_symbol_of_its_own():
    grammar = Grammar(Concat((A, Special("<|x|>"), B)), {})
    assert naive.matches(grammar, b"a" + naive.special("<|x|>") + b"b")
    assert not naive.matches(grammar, b"a<|x|>b")
    assert naive.is_prefix(grammar, b"a" + naive.special("<|x|>"))
    assert not naive.is_prefix(grammar, b"a" + naive.special("<|y|>"))
