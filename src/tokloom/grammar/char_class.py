"""The inside of a bracketed character class, as the notations for grammars share it."""

from __future__ import annotations

from collections.abc import Callable

from tokloom.grammar.characters import complement, normal
from tokloom.grammar.expression import Chars, Expression
from tokloom.grammar.simplify import either
from tokloom.grammar.source import Source


def read_class(source: Source, one: Callable[[], int], *, negative: bool) -> Expression:
    """Characters and ranges up to the closing bracket, which is read too.

    one: reads one character, in the notation's own escapes, and gives its code point. Raises GrammarError where a
    range ends before it starts.
    """
    pairs = []
    while not source.take("]"):
        place = source.place
        first = last = one()
        if source.peek("-") and not source.peek("-]"):
            source.take("-")
            last = one()
        if last < first:
            source.refuse("a range whose end comes before its start", place)
        pairs.append((first, last))
    chars = normal(pairs)
    if negative:
        chars = complement(chars)
    return Chars(chars) if chars else either()
