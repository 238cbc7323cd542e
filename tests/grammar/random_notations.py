"""Random expressions, written in each notation and as a regular expression of Python."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from tests.grammar.languages import takes, vocabulary
from tests.grammar.naive import matches
from tokloom.grammar.combine import Syntax, parse_grammar
from tokloom.grammar.compiled import compile_expression

HEADS = {"gbnf": "root ::= ", "lark": "start: ", "ebnf": "start ::= "}


def written(tree: Any, syntax: Syntax) -> tuple[str, str]:
    """The expression in the notation and as a regular expression."""
    kind, *parts = tree
    if kind == "text":
        return f'"{parts[0]}"', parts[0]
    if kind == "class":
        return (f"/[{parts[0]}]/" if syntax == "lark" else f"[{parts[0]}]"), f"[{parts[0]}]"
    inner = [written(part, syntax) for part in parts[0]]
    text = "(" + (" " if kind == "concat" else " | ").join(part for part, _ in inner) + ")"
    regex = "(?:" + ("" if kind == "concat" else "|").join(part for _, part in inner) + ")"
    return text + parts[1], regex + parts[1]


LEAVES = st.one_of(
    st.tuples(st.just("text"), st.text("ab", min_size=1, max_size=2)),
    st.tuples(st.just("class"), st.sampled_from(["a", "ab", "^a", "a-c"])),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.tuples(
        st.sampled_from(["concat", "either"]),
        st.lists(inner, min_size=1, max_size=3),
        st.sampled_from(["", "?", "*", "+", "{2}", "{1,2}", "{2,}"]),
    ),
    max_leaves=5,
)
TEXTS = st.lists(st.text("abc", max_size=5), min_size=3, max_size=3)


def check_against_regex(tree: Any, syntax: Syntax, texts: list[str]) -> None:
    """The naive matcher and the engine say of every text what `re` says."""
    body, regex = written(tree, syntax)
    grammar = parse_grammar(HEADS[syntax] + body, syntax)
    compiled = compile_expression(grammar, vocabulary())
    for text in texts:
        expected = bool(re.fullmatch(regex, text))
        assert matches(grammar, text.encode()) == expected
        assert takes(compiled, text) == expected
