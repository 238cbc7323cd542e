"""Regular expressions as expressions of the grammar engine."""

from __future__ import annotations

from typing import get_args

from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.expression import Expression
from tokloom.grammar.regex.assertions import ANYTHING, LARGEST, Translation, resolve, size, too_large
from tokloom.grammar.regex.escapes import Dialect
from tokloom.grammar.regex.syntax import Parser

__all__ = ["Dialect", "parse_regex"]


def parse_regex(pattern: str, dialect: Dialect = "python", *, search: bool = False) -> Expression:
    r"""The language of a regular expression, exactly.

    Lazy quantifiers change nothing, as a language has no preference. Lookaheads may stand outside loops;
    lookbehinds look at one character; both become part of the expression.

    Args:
        pattern: the pattern.
        dialect: "ecma" as in JSON Schema (\d, \w and \s as ECMA-262 has them, \u{...}, \cX) or "python" (those of
            `re` for text: Unicode, \A, \Z, (?P<name>...), possessive quantifiers after one character).
        search: the text need only contain a match, as in JSON Schema; otherwise the whole text is the match.

    Raises:
        GrammarError: the pattern is wrong or not supported; `where` is "character N", counted from 1.
    """
    if not isinstance(pattern, str):
        raise ArgumentError("pattern", pattern, "a text")
    if dialect not in get_args(Dialect):
        raise ArgumentError("dialect", dialect, " or ".join(map(repr, get_args(Dialect))))
    try:
        node = Parser(pattern, dialect).parse()
        limit = max(LARGEST, 8 * size(node))
        resolved = resolve((ANYTHING, node, ANYTHING) if search else (node,))
        if size(resolved) > limit:
            raise too_large()
        return Translation(limit).whole(resolved)
    except RecursionError:
        raise GrammarError("character 1", "the pattern nests too deep for its assertions to be worked in") from None
