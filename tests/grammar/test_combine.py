"""Grammars put together in Python."""

from __future__ import annotations

import pytest

from tests.grammar.languages import check
from tests.grammar.naive import matches, special
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar import combine
from tokloom.grammar.combine import Spec, choice, free_text, grammar, literal, regex


def test_all_operations() -> None:
    spec = "<" + (regex("[0-9]{1,2}") | choice("none", "some")) + literal(">").repeat(1, 2) + regex("!").optional()
    check(spec.grammar, ["<1>", "<12>>", "<none>!", "<some>>!"], ["<>", "<123>", "<none", "<1>>>", "<1>!!"])


def test_left_operands_may_be_strings() -> None:
    check(("a" | regex("b+")).grammar, ["a", "bb"], ["ab"])
    check((literal("a") | "b").grammar, ["a", "b"], [""])


def test_equal_names_do_not_meet() -> None:
    one, two = grammar('root ::= x x\nx ::= "1"'), grammar('root ::= x\nx ::= "2"')
    check((one + two + one).grammar, ["11211"], ["22122", "11111", "22222"])
    check((one + two + (two | one) + two).grammar, ["11222", "112112"], ["1121", "11111"])


def test_the_same_grammar_twice_keeps_its_rules_once() -> None:
    one = grammar('root ::= x x\nx ::= "1"')
    assert (one + one).grammar.rules == one.grammar.rules


def test_grammars_of_all_notations() -> None:
    spec = grammar('root ::= "a"') + grammar('start: "b"', "lark") + grammar("x = 'c' ;", "ebnf")
    check(spec.grammar, ["abc"], ["ab", "abcc"])
    check(grammar("x = 'c'; y = 'd';", "ebnf", start="y").grammar, ["d"], ["c"])


def test_schemas() -> None:
    spec = combine.schema({"enum": [1, 2]}) + ";" + combine.schema({"type": "boolean"}, whitespace="compact")
    check(spec.grammar, ["1;true", "2;false"], ["3;true", "1;", "1"])


def test_unbounded_and_recursive_repeats() -> None:
    nested = grammar('root ::= "(" root ")" | "x"').repeat(2)
    check(nested.grammar, ["xx", "(x)x((x))"], ["x", ""])


def test_free_text_and_special_tokens() -> None:
    spec = free_text("END") + "END" + combine.special("<|im_end|>")
    token = special("<|im_end|>")
    assert matches(spec.grammar, b"some ENtextEND" + token)
    assert not matches(spec.grammar, b"an END and END" + token)
    check(free_text().grammar, ["", "anything\n"], [])


@pytest.mark.parametrize(
    ("minimum", "maximum", "argument"), [(-1, None, "minimum"), (2, 1, "maximum"), ("1", 2, "minimum")]
)
def test_bounds(minimum: int, maximum: int | None, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"{argument}="):
        literal("a").repeat(minimum, maximum)


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="options="):
        choice()
    with pytest.raises(ArgumentError, match="string="):
        literal(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="syntax="):
        grammar("x", "yacc")  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="line 1, column 3"):
        grammar("x y")
    with pytest.raises(TypeError):
        literal("a") + 3  # type: ignore[operator]


def test_specs_are_values() -> None:
    assert literal("a") + "b" == literal("ab")
    assert isinstance(literal("a"), Spec)
