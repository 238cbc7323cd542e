"""EBNF texts, ISO's and the W3C's, and the languages they stand for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grammar.languages import check
from tests.grammar.random_notations import TEXTS, TREES, check_against_regex
from tokloom.errors import GrammarError
from tokloom.grammar.ebnf import parse_ebnf

LANGUAGES = [
    (
        '(* sums *) expr = term, { ("+" | "-"), term } ;\n term = digit, {digit} | "(", expr, ")"; digit = "0" | "1" .',
        ["1+0", "(1-0)+11"],
        ["", "1+", "2"],
    ),
    ("a = 3 * 'x', [ 'y' ], 2 * ('p' | 'q') ;", ["xxxpq", "xxxyqq"], ["xxpq", "xxxyp"]),
    ("first rule = 'a' ;".replace("first rule", "first"), ["a"], [""]),
    (
        "[1] Expr ::= Term ('+' Term)* /* sums */\n[2] Term ::= [a-z#x30-#x39]+ - 'if' | [ \"-\" ] \"n\"",
        ["ab+c0", "n", "-n", "ifx"],
        ["", "if", "A"],
    ),
    ("Char ::= #x9 | #xA | [#x20-#x7F] - [aeiou]", ["\t", "b", "é".replace("é", "~")], ["a", "é", "bb"]),
    ("C ::= [^a-c\"']", ["d", "\n"], ["a", '"', "'", ""]),
    ("C ::= [\"']", ['"', "'"], ["a"]),
    ("Comment ::= '<!--' (Char* - (Char* '--' Char*)) '-->'\nChar ::= [a-z-]", ["<!--a-b-->"], ["<!--a--b-->"]),
    ("<sum> ::= <number> | <sum> '+' <number>\n<number> ::= '1'", ["1", "1+1+1"], ["", "+1"]),
    ("a ::= 'x'{2,3} 'y'{1,} 'z'?", ["xxy", "xxxyyz"], ["xy", "xx"]),
    ("a ::= '\\n'", ["\\n"], ["\n"]),
    ("a ::= b b\nb ::= | 'x'", ["", "x", "xx"], ["xxx"]),
    ("a = b | c\nb = 'x'\nc = 'y'", ["x", "y"], ["xy"]),
]


@pytest.mark.parametrize(("grammar", "good", "bad"), LANGUAGES)
def test_language(grammar: str, good: list[str], bad: list[str]) -> None:
    check(parse_ebnf(grammar), good, bad)


def test_other_start() -> None:
    check(parse_ebnf("a = 'x'; b = 'y';", start="b"), ["y"], ["x"])


@pytest.mark.parametrize(
    ("grammar", "where", "problem"),
    [
        ("a = 'x", "line 1, column 5", "a ' without its end"),
        ("a = 'x',\n;", "line 2, column 1", "an item was expected"),
        ("a = ('x' ;", "line 1, column 10", '")" for the bracket of line 1, column 5 was expected'),
        ("a = b;", "line 1, column 5", "there is no rule 'b'"),
        ("a : 'x'", "line 1, column 3", '"=" or "::=" after the name'),
        ("a ::= [b]\nb ::= 'x'", "line 1, column 7", "may be a class of characters or the optional rule 'b'"),
        ("a ::= [z-a]", "line 1, column 8", "range"),
        ("a ::= #xD800", "line 1, column 7", "no Unicode character"),
        ("a = ? any ? ;", "line 1, column 5", "special sequences"),
        ("a = 'x' ; a = 'y' ;", "line 1, column 11", "defined twice"),
        ("", "line 1, column 1", "a rule was expected"),
        ("a = 'x' )", "line 1, column 9", "an item or the next rule was expected"),
    ],
)
def test_refused_with_position(grammar: str, where: str, problem: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_ebnf(grammar)
    assert caught.value.where == where
    assert problem in caught.value.problem


@settings(max_examples=200, deadline=None)
@given(st.text("ab:= '\"[]{}()|*+?,;-^\n#x1<>.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for sign in ("=", "::="):
        try:
            parse_ebnf(f"a {sign} {text}")
        except GrammarError as error:
            if re.fullmatch(r"line \d+, column \d+", error.where) is None:
                raise


def test_endless_quantifiers_are_refused() -> None:
    with pytest.raises(GrammarError, match="nests too deep"):
        parse_ebnf('a ::= "x"' + "?*" * 5000 + ' | "b"')


@settings(max_examples=60, deadline=None)
@given(TREES, TEXTS)
def test_random_grammars(tree: Any, texts: list[str]) -> None:
    check_against_regex(tree, "ebnf", texts)
