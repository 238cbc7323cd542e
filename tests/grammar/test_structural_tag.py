"""Free text with constrained regions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grammar.languages import check
from tests.grammar.naive import matches, special
from tests.grammar.regex.ends import matches as matches_text
from tokloom.errors import ArgumentError
from tokloom.grammar.combine import regex
from tokloom.grammar.structural_tag import Tag, outside, structural_tag, until

DIGITS = regex("[0-9]+").grammar
LETTERS = regex("[a-z]+").grammar
TAGS = [Tag("<a>", DIGITS, "</a>"), Tag("<b>", LETTERS, "</b>")]


def test_free_text_around_any_number() -> None:
    grammar = structural_tag(TAGS)
    good = ["", "text", "x<a>1</a>y<b>z</b>", "<a>1</a><a>2</a>", "a < b <", "<a", "<<a>1</a>"]
    check(grammar, good, ["<a>", "<a>x</a>", "<b>1</b>", "t<a>1</a", "<a>1</a><a>"])


def test_bounds() -> None:
    one, two = "<a>1</a>", "<a>1</a> and <b>x</b>"
    check(structural_tag(TAGS, at_least=1), [one, two], ["", "text"])
    check(structural_tag(TAGS, at_most=1), ["text", one, f"x{one}y"], [two])
    check(structural_tag(TAGS, at_least=2, at_most=2), [two], [one, two + one])


def test_without_free_text() -> None:
    grammar = structural_tag(TAGS, at_least=1, before=False, after=False, separator=regex(" ?").grammar.start)
    check(grammar, ["<a>1</a>", "<a>1</a> <b>x</b>", "<a>1</a><b>x</b>"], ["", " <a>1</a>", "<a>1</a> ", "x"])
    grammar = structural_tag(TAGS, before=False, after=True)
    check(grammar, ["", "x", "<a>1</a>x", "<a>1</a><a>2</a>"], ["<a>1</a>x<a>2</a>"])


def test_triggers_shorter_than_the_tags() -> None:
    tags = [Tag("<f=one>", DIGITS, "</f>"), Tag("<f=two>", LETTERS, "</f>")]
    grammar = structural_tag(tags, triggers=["<f="])
    check(grammar, ["x<f=one>1</f>", "<f=two>a</f>", "<f"], ["<f=three>1</f>", "<f=", "<f=one>a</f>"])


def test_special_tokens_open_regions() -> None:
    grammar = structural_tag([Tag("<|tool|>", DIGITS, ";", special=True)])
    assert matches(grammar, b"text" + special("<|tool|>") + b"12;more")
    assert not matches(grammar, special("<|tool|>") + b"x;")
    assert matches(grammar, b"<|tool|>x")  # as text it opens nothing


def test_names_in_tags_do_not_meet() -> None:
    from tokloom.grammar.gbnf import parse_gbnf

    tags = [Tag("<a>", parse_gbnf('root ::= x\nx ::= "1"')), Tag("<b>", parse_gbnf('root ::= x\nx ::= "2"'))]
    check(structural_tag(tags, before=False, after=False), ["<a>1", "<b>2", "<a>1<b>2"], ["<a>2", "<b>1"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2, unique=True), st.text("abc", max_size=7))
def test_free_text_ends_at_the_first_trigger(triggers: list[str], free: str) -> None:
    if any(a != b and a in b for a in triggers for b in triggers):
        return
    assert matches_text(outside(triggers), free) == (not any(trigger in free for trigger in triggers))
    for trigger in triggers:
        both = free + trigger
        first = min(both.find(other) + len(other) for other in triggers if other in both)
        assert matches_text(until(trigger, triggers), free) == (first == len(both) and both.find(trigger) == len(free))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"tags": []}, "tags"),
        ({"at_least": 2, "at_most": 1}, "at_least and at_most"),
        ({"at_most": 0}, "at_least and at_most"),
        ({"triggers": [""]}, "triggers"),
        ({"triggers": ["<a"]}, "triggers"),
        ({"triggers": ["<", "<b"]}, "triggers"),
    ],
)
def test_refusals(options: dict[str, object], argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"{argument}="):
        structural_tag(**{"tags": TAGS, **options})  # type: ignore[arg-type]
