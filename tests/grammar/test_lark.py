"""Lark texts and the languages they stand for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grammar.languages import check
from tests.grammar.naive import matches, special
from tests.grammar.random_notations import TEXTS, TREES, check_against_regex
from tokloom.errors import GrammarError
from tokloom.grammar.lark import parse_lark
from tokloom.grammar.lark_terminals import COMMON, common

SUMS = r"""
// sums, with all that shapes trees only
start: expr
?expr: expr "+" term -> add
     | term
!term.2: NUMBER | "(" expr ")" | "SIN"i "(" _list{expr, ","} ")"
_list{x, sep}: x (sep x)*
%import common.NUMBER
%import common.WS -> SPACE
%ignore SPACE
"""

LANGUAGES = [
    (SUMS, ["1 + 2", " (1)", "sin( 1 ,2)+3.5e3 ", "1"], ["1+", "sin()", "1 2", ""]),
    ('start: "a"? ["b"] "c"~2 "d"~1..2 "e"{2}', ["ccdee", "abccddee"], ["cdee", "ccddd"]),
    ('start: A B*\nA: "a".."c"\nB: /[0-9]/ | "x" A', ["a", "b1xc"], ["d", "1"]),
    ('start: NAME\nNAME: /[a-z]+/ & ~("if" | "else")', ["i", "iff"], ["if", "else", ""]),
    (r"start: /a\/b/ /[a-z]/i " + r'"\n"', ["a/bQ\n"], [r"a\/bq" + "\n"]),
    (r"start: /a.b/s", ["a\nb"], ["ab"]),
    ("start: x\nx: x x | \"y\"\nunused: UNUSED\nUNUSED: /z/", ["y", "yyy"], [""]),
    ('start: a | "b"\n\n   | "c" // c\na:', ["", "b", "c"], ["a"]),
    ('start: "x" # comment\n# another\n', ["x"], [""]),
    ('start: ("a"\n  "b")+', ["abab"], ["a"]),
    ('start: "a" "b"\n%ignore " "\n%ignore /#[^\\n]*\\n/', ["ab", " a #x\n b "], ["a b c"]),
    ('start: A\nA: "a" "b"\n%ignore " "', ["ab", " ab "], ["a b"]),
    ("start: rep{x} rep{\"z\"}\nrep{item}: item | rep{item} item\nx: \"y\"", ["yz", "yyzz"], ["y", "zy"]),
    ('start: mix{"a", mix{"b", "c"}}\nmix{p, q}: p q | q p', ["abc", "cba", "acb"], ["bac", "ab"]),
    ('start[capture]: head "!"\nhead[lazy]: /.*<end>/', ["a<end>!", "<end>!"], ["<end><end>!", "!"]),
    ('start: head "!"\nhead[suffix="."]: /.*/', ["a.!"], ["a..!", "a!"]),
    (r'start: /(?!if\b)[a-z]+/', ["iff", "a"], ["if"]),
    ("%import common (INT, WORD)\nstart: INT | WORD", ["12", "ab"], ["1a"]),
    ('start: "x" %json {"enum": [1, {"a": 2}]} "y" | %json {"$ref": "#/$defs/b", "$defs": {"b": {"type": "boolean"}}}',
     ["x1y", 'x{"a": 2}y', "true"], ["x2y", "x1", "1"]),
    (r'start: "\u00e9\x41\"\\"', ['éA"\\'], ["e"]),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "good", "bad"), LANGUAGES)
def test_language(grammar: str, good: list[str], bad: list[str]) -> None:
    check(parse_lark(grammar), good, bad)


def test_special_tokens() -> None:
    grammar = parse_lark('start: <|tool|> "x" <|end|>\n%ignore " "')
    assert matches(grammar, special("<|tool|>") + b" x " + special("<|end|>"))


def test_other_start() -> None:
    check(parse_lark('a: "x"\nb: "y"', start="b"), ["y"], ["x"])


COMMON_TEXTS = {
    "ESCAPED_STRING": (['""', r'"a\"b"', r'"\\"'], ['"', '"a"b"', '"a\n"', '"\\"']),
    "SIGNED_NUMBER": (["1", "-1.5", "+.5e3", "2.", "3E-4"], ["", "e3", "1.5.2"]),
    "CNAME": (["a", "_x1"], ["1a", ""]),
    "C_COMMENT": (["/**/", "/* a * b **/"], ["/*", "/* */ */"]),
    "NEWLINE": (["\n", "\r\n\n"], ["\r", ""]),
    "HEXDIGIT": (["a", "F", "0"], ["g"]),
}


@pytest.mark.parametrize("name", COMMON)
def test_common(name: str) -> None:
    grammar = parse_lark(f"start: {name}\n%import common.{name}")
    assert grammar.rules[name] == common(name)
    good, bad = COMMON_TEXTS.get(name, ([], [""]))
    check(grammar, good, bad)


@pytest.mark.parametrize(
    ("grammar", "where", "problem"),
    [
        ('start: "a', "line 1, column 8", 'a " without its end'),
        ("start: /a", "line 1, column 8", "a / without its end"),
        ("start: (x", "line 1, column 10", '")" for the "(" of line 1, column 8 was expected'),
        ("start: x", "line 1, column 8", "there is no rule 'x'"),
        ('begin: "x"', "line 1, column 11", "there is no rule 'start'"),
        ('start "x"', "line 1, column 7", "\":\" after the name 'start' was expected"),
        ('start: "x"\nstart: "y"', "line 2, column 1", "defined twice"),
        ("start: A\nA: start", "line 2, column 4", "can't stand in a terminal"),
        ("start: /a(b/", "line 1, column 10", "a ( without its )"),
        ('start: "b".."a"', "line 1, column 8", "range"),
        ('start: "ab".."c"', "line 1, column 8", "single character"),
        ("%import python.NAME", "line 1, column 1", "only %import common.NAME"),
        ("%import common.NAMES", "line 1, column 1", "common has no 'NAMES'"),
        ("%declare X", "line 1, column 1", "%declare is not supported"),
        ("%extend x: y", "line 1, column 1", "%extend is not supported"),
        ('%llguidance {"x": 1}', "line 1, column 1", "the option 'x'"),
        ('start[max_tokens=3]: "x"', "line 1, column 7", "the attribute 'max_tokens'"),
        ('start: p{"a"}\np{x, y}: x y', "line 1, column 8", "p takes 2 arguments, not 1"),
        ('start: p{"a"}\np{x}: x p{x x}', "line 2, column 9", "ever new arguments"),
        ("start: <[100]>", "line 1, column 8", "tokens by number"),
        ("start: A\nA: <x>", "line 2, column 4", "special token"),
        ("start: @other", "line 1, column 8", "other grammars"),
        ('start: "a" -> 1', "line 1, column 15", "the name of an alias"),
        ('start: "a"~3..2', "line 1, column 11", "larger"),
        ("start: %json {", "line 1, column 15", "JSON was expected"),
        ('start: %json {"type": "x"}', "line 1, column 8", "the schema is not usable: #/type"),
        ("start: A\nA: %json {}", "line 2, column 4", "can't stand in a terminal"),
        (r'start: "\q"', "line 1, column 10", r"\q is no escape"),
    ],
)
def test_refused_with_position(grammar: str, where: str, problem: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_lark(grammar)
    assert problem in caught.value.problem
    assert caught.value.where == where


@settings(max_examples=300, deadline=None)
@given(st.text('aA:" /[]{}()|*+?~&.->%<>\n1,#i', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_lark("start: " + text)
    except GrammarError as error:
        if re.fullmatch(r"line \d+, column \d+", error.where) is None:
            raise


def test_endless_quantifiers_are_refused() -> None:
    with pytest.raises(GrammarError, match="nests too deep"):
        parse_lark('start: "a"' + "?*" * 5000 + ' | "b"')


@settings(max_examples=60, deadline=None)
@given(TREES, TEXTS)
def test_random_grammars(tree: Any, texts: list[str]) -> None:
    check_against_regex(tree, "lark", texts)
