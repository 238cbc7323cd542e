"""One check for the front ends: what is in a language and what is not, by the naive matcher and by the engine."""

from __future__ import annotations

import functools

from tests import tiny_models
from tests.grammar import naive
from tokloom.errors import ArgumentError
from tokloom.grammar.compiled import CompiledGrammar, compile_expression
from tokloom.grammar.expression import Grammar
from tokloom.tokenize.vocabulary import Vocabulary


@functools.cache
def vocabulary() -> Vocabulary:
    """The tiny model's: all bytes, and some words."""
    return tiny_models.build_llama().vocabulary


def takes(compiled: CompiledGrammar, text: str) -> bool:
    """Whether the engine accepts the text's bytes, and an end after them."""
    matcher = compiled.matcher()
    try:
        matcher.accept_bytes(text.encode())
    except ArgumentError:
        return False
    return matcher.is_complete


def check(grammar: Grammar, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not naive.matches(grammar, text.encode())] == []
    assert [text for text in bad if naive.matches(grammar, text.encode())] == []
    compiled = compile_expression(grammar, vocabulary())
    assert [text for text in good if not takes(compiled, text)] == []
    assert [text for text in bad if takes(compiled, text)] == []
