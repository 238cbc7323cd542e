"""GBNF texts and the languages they stand for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grammar.languages import check
from tests.grammar.naive import is_prefix, matches, special
from tests.grammar.random_notations import TEXTS, TREES, check_against_regex
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.expression import Chars, Grammar, Repeat
from tokloom.grammar.gbnf import parse_gbnf

ARITHMETIC = r"""
# lines of sums
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws   # a comment behind
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""

LANGUAGES = [
    (ARITHMETIC, ["a+b=1\n", "(a) *2=3\n1= 2\n"], ["a+b", "a=\n", ""]),
    (
        'root ::= a |\n  "x"{2,3} |\n "é" [^a-c\\]]?\na ::= a "b" | "b"',
        ["b", "bbb", "xx", "éz", "é"],
        ["x", "éa", "é]"],
    ),
    ('root ::= | "a"', ["", "a"], ["aa"]),
    ('root ::= (\n  "a" # one\n  "b"\n)\n', ["ab"], ["a", "a\nb"]),
    ('root ::= "\\x41\\u00e9\\U0001F600\\"\\\\\\n"', ['Aé😀"\\\n'], ["A"]),
    (r"root ::= [\x41-\x43\u00e9\]\\^-]+", ["ABCé]\\^-"], ["D", "["]),
    ("root ::= .{2}", ["é\n"], ["é", "abc"]),
    ('root ::= "a"{0,2} "b"{2} "c"{1,}', ["bbc", "aabbccc"], ["bb", "abc"]),
    ('root ::= r-1 "x"?\nr-1 ::= r_2+\nr_2 ::= "y"', ["yyx", "y"], ["x"]),
    ('root ::= ("a" | "b")*?', ["", "abab"], ["c"]),
    ('root ::= a\na ::= a a | "x"\nunused ::= "q"', ["x", "xxxx"], ["", "q"]),
]


@pytest.mark.parametrize(("grammar", "good", "bad"), LANGUAGES)
def test_language(grammar: str, good: list[str], bad: list[str]) -> None:
    check(parse_gbnf(grammar), good, bad)


def test_special_tokens() -> None:
    grammar = parse_gbnf('root ::= <think> [a-z]* </think> "x"')
    think, end = special("<think>"), special("</think>")
    assert matches(grammar, think + b"abc" + end + b"x")
    assert not matches(grammar, b"<think>abc</think>x")


def test_other_root() -> None:
    grammar = parse_gbnf('root ::= "a"\nb ::= "b"', root="b")
    check(grammar, ["b"], ["a"])


def test_large_repeats_are_counted() -> None:
    assert parse_gbnf("root ::= [a]{1,50000}").rules["root"] == Repeat(Chars(((97, 97),)), 1, 50_000)


@pytest.mark.parametrize(
    ("grammar", "where", "problem"),
    [
        ('root ::= "a', "line 1, column 10", 'a " without its end'),
        ('root ::= "a"\nx ::= [a', "line 2, column 7", "a [ without its ]"),
        ("root ::= (a", "line 1, column 12", '")" for the "(" of line 1, column 10 was expected, but the text ends'),
        ("root = a", "line 1, column 6", '"::=" after the name \'root\' was expected, but found \'=\''),
        ("root ::= foo\nfo ::= \"a\"", "line 1, column 10", "there is no rule 'foo'"),
        ('start ::= "a"', "line 1, column 14", "there is no rule 'root' to start with"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1", "defined twice"),
        ('root ::= "a" )', "line 1, column 14", "the end of the line was expected"),
        (r'root ::= "\q"', "line 1, column 11", r"\q is no escape"),
        ("root ::= [b-a]", "line 1, column 11", "range"),
        ("root ::= [a]{3,2}", "line 1, column 13", "larger"),
        ("root ::= [a]{x}", "line 1, column 13", "repeat like"),
        ("root ::= <[1000]>", "line 1, column 10", "tokens by number"),
        ("root ::= !<x>", "line 1, column 10", "negated tokens"),
        ('root ::= "a" b ::= "b"', "line 1, column 14", "begins inside another"),
        ("root ::= " + "(" * 120, "line 1, column 111", "nested"),
        ("", "line 1, column 1", "no rule 'root'"),
    ],
)  # fmt: skip
def test_refused_with_position(grammar: str, where: str, problem: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_gbnf(grammar)
    assert caught.value.where == where
    assert problem in caught.value.problem


def test_hint_names_the_nearest_rule() -> None:
    with pytest.raises(GrammarError, match="Did you mean 'number'"):
        parse_gbnf('root ::= numbre\nnumber ::= "1"')


def test_text_is_needed() -> None:
    with pytest.raises(ArgumentError, match="grammar="):
        parse_gbnf(b"root ::= x")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(TREES, TEXTS)
def test_random_grammars(tree: Any, texts: list[str]) -> None:
    check_against_regex(tree, "gbnf", texts)


@settings(max_examples=300, deadline=None)
@given(st.text('root:= "a[]{}()|*+?\\-^\n#<>.1,', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        grammar = parse_gbnf("root ::= " + text)
    except GrammarError as error:
        if re.fullmatch(r"line \d+, column \d+", error.where) is None:
            raise
        return
    assert isinstance(grammar, Grammar)


def test_prefixes() -> None:
    grammar = parse_gbnf(ARITHMETIC)
    assert is_prefix(grammar, b"(a +(b")
    assert not is_prefix(grammar, b"a+)")


def test_endless_quantifiers_are_refused() -> None:
    with pytest.raises(GrammarError, match="nests too deep"):
        parse_gbnf('root ::= "a"' + "?*" * 5000 + ' | "b"')
