"""A quick matcher of regular expressions' expressions over characters: the ends of every match from a start.

`tests/grammar/naive.py` is the reference for bytes and rules; this one is for many random patterns.
"""

from __future__ import annotations

from tokloom.grammar.characters import contains
from tokloom.grammar.expression import Both, Chars, Concat, Either, Except, Expression, Literal, Repeat


def matches(expression: Expression, text: str) -> bool:
    return len(text) in _ends(expression, text, 0, {})


def _ends(e: Expression, text: str, start: int, known: dict[tuple[int, int], set[int]]) -> set[int]:
    key = (id(e), start)
    if key not in known:
        known[key] = _found(e, text, start, known)
    return known[key]


def _found(e: Expression, text: str, start: int, known: dict[tuple[int, int], set[int]]) -> set[int]:
    def after(item: Expression, starts: set[int]) -> set[int]:
        return {end for s in starts for end in _ends(item, text, s, known)}

    match e:
        case Literal(data):
            literal = data.decode()
            return {start + len(literal)} if text.startswith(literal, start) else set()
        case Chars(ranges):
            return {start + 1} if start < len(text) and contains(ranges, ord(text[start])) else set()
        case Concat(items):
            ends = {start}
            for item in items:
                ends = after(item, ends)
            return ends
        case Either(items):
            return {end for item in items for end in _ends(item, text, start, known)}
        case Repeat(item, minimum, maximum):
            ends, layer = set(), {start}
            for count in range(minimum + len(text) + 1 if maximum is None else maximum + 1):
                if count >= minimum:
                    if layer <= ends:
                        break
                    ends |= layer
                layer = after(item, layer)
            return ends
        case Both(items):
            return set.intersection(*(_ends(item, text, start, known) for item in items))
        case Except(item, removed):
            return _ends(item, text, start, known) - _ends(removed, text, start, known)
    raise TypeError(type(e))
