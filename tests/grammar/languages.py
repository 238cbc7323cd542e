"""One check for the front ends: what is in a language and what is not, by the naive matcher."""

from __future__ import annotations

from tests.grammar.naive import matches
from tokloom.grammar.expression import Grammar


def check(grammar: Grammar, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not matches(grammar, text.encode())] == []
    assert [text for text in bad if matches(grammar, text.encode())] == []
