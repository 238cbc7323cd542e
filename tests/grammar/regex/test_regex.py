"""`parse_regex` against Python's own `re`."""

from __future__ import annotations

import re
import sys
import time
import unicodedata
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grammar import naive
from tests.grammar.languages import takes, vocabulary
from tests.grammar.regex.ends import matches
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.compiled import compile_expression
from tokloom.grammar.expression import NOTHING, Chars, Concat, Grammar, Repeat
from tokloom.grammar.regex import parse_regex

TEXTS = [
    "",
    "a",
    "b",
    "ab",
    "aab",
    "a\n",
    "\n",
    "\na",
    "a\nb",
    "abc",
    "foo",
    "xfoo",
    "foox",
    "foobar",
    "a b",
    "1",
    "a1",
]
TEXTS += ["aa1A", "A1", " ", "a,b", ",", "a-b", "-", "é", "É", "K", "k", "ſ", "s", "x", "abcabc", "bbb", "]", "_"]

PATTERNS = r"""
a  a|b  ^a  a$  ^a$  ^(a|b$)  a*  a+b?  a{2,3}  a{,2}b  a{2}  (a|b){2,}c  a{x}  [^a]  [a-c]+  []a]+  [a-]+
[\d-]  [^\W\d]
^$  $  \Z  \Aa  a$\n  ($|\n)a?  (a$)?  (^a|b)*  (^|,)a(,|$)  (?:^|b)a  (?m)^a$  (?m)^b  (?m)a$.*  (?s).*  .  .*
(?i)k  (?i)[^k]
(?i)s  (?i:A)b  (?i)É  (?i)a(?-i:B)
\ba\b  a\b  \Ba  \b  \B  a\B  (?:\ba\b|\s){1,3}  \w+  \s  \d  \D\S  \W+  (?a)\w  \x61  \u0061  \141  \N{DIGIT_ONE}?a
(?!foo).*  ^(?!foo)  (?=.*\d)(?=.*[A-Z]).{2,}  (?!.*a)  (?=a|x)..  ^(?:(?!b).)*$  ^(?:(?!oo).)*\Z  (?:(?!ab).){2,}\Z
(foo)?(?=x)x?  ((?=f)fo|(?!b)a)+?b?|c  (?!a$)a.*  (?!)|a  (?=a)|b  ((?!ab)a){1,2}  (?!(?!a)).  a(?!b|$)
a*+b  a*+a  a?+a  a{1,2}+a  (?<=a)b  (?<!a)b  b(?=c|$)  b(?!c)  [a-z]+(?<!o)  (?<!b)$
(?P<n>a)b  (?:a*)*  (?:a|)+b  (?:)  (a?){3}  (?#note)a  (a*?)(b*)??  x*^a?  $a?|b
""".split()
PATTERNS.append("(?x) a [ ] b # trailing")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_same_as_re(pattern: str) -> None:
    pattern = pattern.replace("DIGIT_ONE", "DIGIT ONE")
    whole, found = parse_regex(pattern), parse_regex(pattern, search=True) if pattern not in NOT_SEARCHED else None
    for text in TEXTS if r"\B" not in pattern else TEXTS[1:]:  # re before 3.14: no \B in an empty text
        assert matches(whole, text) == bool(re.fullmatch(pattern, text)), text
        if found is not None:
            assert matches(found, text) == bool(re.search(pattern, text)), text


NOT_SEARCHED = {r"^(?:(?!b).)*$", r"^(?:(?!oo).)*$"}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_engine_says_the_same(pattern: str) -> None:
    pattern = pattern.replace("DIGIT_ONE", "DIGIT ONE")
    for search in (False, True) if pattern not in NOT_SEARCHED else (False,):
        expression = parse_regex(pattern, search=search)
        if expression == NOTHING:
            continue
        compiled = compile_expression(Grammar(expression, {}), vocabulary())
        for text in TEXTS:
            assert takes(compiled, text) == matches(expression, text), (text, search)


@pytest.mark.parametrize("pattern", [r"(?!foo).*", r"(?i)é|K", r"a*+b", r"^(a|b$)", r"[^a]b"])
def test_same_as_re_in_bytes(pattern: str) -> None:
    grammar = Grammar(parse_regex(pattern, search=True), {})
    for text in TEXTS:
        assert naive.matches(grammar, text.encode()) == bool(re.search(pattern, text)), text


ATOMS = st.sampled_from(["a", "b", "1", "[ab]", "[^a]", ".", r"\w", r"\d", r"\n", "", "^", "$", r"\b", r"\B", r"\Z"])
LOOKS = st.sampled_from(["?=", "?!", "?<=", "?<!"])
PIECES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: "(?:" + "|".join(items) + ")"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        st.tuples(LOOKS, inner).map(lambda pair: f"({pair[0]}{pair[1]})"),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.lists(st.text("ab1 \n", max_size=6), min_size=4, max_size=8))
def test_random_patterns(pattern: str, texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compiled = re.compile(pattern)
        except re.error:
            return
    for search in (False, True):
        try:
            expression = parse_regex(pattern, search=search)
        except GrammarError as error:
            if "not supported" not in str(error):
                raise
            continue
        for text in texts:
            if not text and r"\B" in pattern:
                continue  # re before 3.14 has no \B there
            expected = compiled.search(text) if search else compiled.fullmatch(text)
            assert matches(expression, text) == bool(expected), (text, search)


ECMA = [
    (r"^\d+$", ["1", "09"], ["", "१", "a"]),
    (r"^\w$", ["a", "_"], ["é", "-"]),
    (r"^\s$", [" ", "\xa0", "\ufeff", "\u2003"], ["a", "\x1c", "\x85"]),
    (r"^.$", ["a", "\x85"], ["\n", "\r", "\u2028"]),
    (r"a$", ["a", "ba"], ["a\n"]),
    (r"^\cJ$", ["\n"], ["J"]),
    (r"^\u{1F600}$", ["😀"], ["u"]),
    (r"^\uD83D\uDE00$", ["😀"], ["a"]),
    (r"^[\uD83D\uDE00-\uD83D\uDE02]$", ["😀", "😁"], ["😄"]),
    (r"^\p{Letter}cole$", ["école"], ["1cole"]),
    (r"^\p{Script=Greek}+$", ["αβγ"], ["abc"]),
    (r"^\P{L}$", ["1"], ["l"]),
    (r"^[\p{Lu}\p{Nd}]+$", ["ÀZ१"], ["à"]),
    (r"^[^]$", ["a", "\n"], ["", "ab"]),
    (r"^[]$", [], ["", "a", "]"]),
    (r"^a{,2}$", ["a{,2}"], ["a", "aa"]),
    (r"^\/\-$", ["/-"], [r"\/"]),
    (r"^(?<year>\d{4})$", ["2024"], ["24"]),
    (r"^\0$", ["\0"], ["0"]),
    (r"^[\w-.]$", ["-", ".", "a"], [" "]),
    (r"(^a|b$)+", ["ax", "xb", "a"], ["xa", "bx"]),
    (r"^(?:(?!--)[a-z-])*$", ["a-b", ""], ["a--b"]),
    (r"^(?!.*\.\.)(?!\.)[a-z.]+$", ["a.b"], ["a..b", ".a"]),
    (r"^x{3}y{0}$", ["xxx"], ["xx", "xxxy"]),
    (r"(?<=a|^)b", ["b", "ab"], ["cb", "a"]),
    (r"^\B$", [""], ["a"]),
    (r"{", ["{", "a{b"], ["a"]),
    (r"^(?i)abc$".replace("^(?i)", "(?i)^"), ["ABC"], ["ab"]),
    (r"^\S(|(.|\n)*\S)$", ["a", "a b"], [" a", ""]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), ECMA)
def test_ecma(pattern: str, good: list[str], bad: list[str]) -> None:
    expression = parse_regex(pattern, "ecma", search=True)
    assert [text for text in good if not matches(expression, text)] == []
    assert [text for text in bad if matches(expression, text)] == []


@pytest.mark.parametrize(
    ("pattern", "dialect", "where", "problem"),
    [
        ("a(b", "python", 2, "a ( without its )"),
        ("ab)", "python", 3, "a ) without a ("),
        ("[a", "ecma", 1, "a [ without its ]"),
        ("ab**", "python", 4, "a quantifier after a quantifier"),
        ("a|*", "python", 3, "nothing to repeat"),
        ("a{3,2}", "ecma", 2, "larger"),
        ("[b-a]", "ecma", 2, "range"),
        (r"(a)\1", "python", 4, "backreferences"),
        (r"(?P<x>a)(?P=x)", "python", 9, "backreferences"),
        (r"(?<=ab)c", "ecma", 1, "lookbehind of more than one character"),
        (r"(?:(?!ab)c)*d", "ecma", 12, "inside a loop"),
        (r"(?:\ba)*", "ecma", 8, "inside this loop"),
        (r"a\p{Nonsense}", "ecma", 2, "no Unicode property 'Nonsense'"),
        (r"\p{Script=Klingon}", "ecma", 1, "Script=Klingon"),
        (r"\a", "ecma", 1, r"\a is no escape"),
        (r"\Z", "ecma", 1, r"\Z is no escape"),
        (r"\uD800", "ecma", 1, "surrogate"),
        (r"\xg0", "python", 1, "hexadecimal"),
        (r"(?>a*)b", "python", 1, "atomic"),
        (r"(?:ab)*+c", "python", 8, "possessive"),
        ("[[:alpha:]]", "ecma", 2, "POSIX"),
        ("a\\", "python", 3, "pattern ends"),
        ("(" * 150 + ")" * 150, "python", 101, "nested"),
        ("a(?i)b", "python", 2, "start"),
    ],
)
def test_refused_with_position(pattern: str, dialect: str, where: int, problem: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_regex(pattern, dialect)  # type: ignore[arg-type]
    assert caught.value.where == f"character {where}"
    assert problem in caught.value.problem


def test_arguments() -> None:
    with pytest.raises(ArgumentError, match="dialect="):
        parse_regex("a", "posix")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="pattern="):
        parse_regex(3)  # type: ignore[arg-type]


def test_large_repeats_are_counted() -> None:
    assert parse_regex("[ab]{1,100000}") == Repeat(Chars(((97, 98),)), 1, 100_000)
    assert parse_regex("^[ab]{0,5000}$", "ecma", search=True) == Repeat(Chars(((97, 98),)), 0, 5000)


@pytest.mark.parametrize("pattern", [r"(\b|a)" * 20, "((?!ab)c|(?!de)f)" * 16, "(?!ab)" * 400, r"(a?\b)" * 30])
def test_assertions_that_multiply_are_refused_soon(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(GrammarError, match="assertions"):
        parse_regex(pattern, "ecma", search=True)
    assert time.perf_counter() - started < 20


def test_anchors_leave_no_search_around() -> None:
    assert parse_regex("^ab[0-9]$", "ecma", search=True) == parse_regex("ab[0-9]")
    assert isinstance(parse_regex("^ab[0-9]", "ecma", search=True), Concat)


@pytest.mark.parametrize("escape", [r"\w", r"\d", r"\s"])
def test_python_classes_are_those_of_re(escape: str) -> None:
    every = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) != "Cs")
    expression = parse_regex(escape)
    assert isinstance(expression, Chars)
    ours = {chr(c) for first, last in expression.ranges for c in range(first, last + 1)}
    assert {c for c in every if c in ours} == set(re.findall(escape, every))
