"""Parts of a regular language, taken from its expression: the strings that begin or end with certain characters.

The expressions are those that a regular expression becomes: literals of whole characters, `Chars`, `Concat`,
`Either`, `Repeat`, `Both` and `Except`.
"""

from __future__ import annotations

from tokloom.grammar.characters import ALL, Ranges, contains, intersection
from tokloom.grammar.expression import (
    NOTHING,
    Both,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Literal,
    Repeat,
)
from tokloom.grammar.simplify import concat, either, nullable, repeat, without


def beginning(expression: Expression, chars: Ranges) -> Expression:
    """Its strings that begin with one of the characters; with ALL, those that are not empty."""
    return _restrict(expression, chars, at_end=False)


def ending(expression: Expression, chars: Ranges) -> Expression:
    """Its strings that end with one of the characters."""
    return _restrict(expression, chars, at_end=True)


def _restrict(expression: Expression, chars: Ranges, *, at_end: bool) -> Expression:
    match expression:
        case Literal(data):
            text = data.decode()
            kept = bool(text) and contains(chars, ord(text[-1 if at_end else 0]))
            return expression if kept else NOTHING
        case Chars(own):
            common = own if chars == ALL else intersection(own, chars)
            return Chars(common) if common else NOTHING
        case Concat(items):
            ordered = items[::-1] if at_end else items
            parts = []
            for i, item in enumerate(ordered):
                kept_items = (_restrict(item, chars, at_end=at_end), *ordered[i + 1 :])
                parts.append(concat(*(kept_items[::-1] if at_end else kept_items)))
                if not nullable(item):
                    break
            return either(*parts)
        case Either(items):
            return either(*(_restrict(item, chars, at_end=at_end) for item in items))
        case Repeat(item, minimum, maximum):
            one = _restrict(item, chars, at_end=at_end)
            rest = repeat(item, max(minimum - 1, 0), None if maximum is None else maximum - 1)
            return concat(rest, one) if at_end else concat(one, rest)
        case Both(items):
            first = _restrict(items[0], chars, at_end=at_end)
            return NOTHING if first == NOTHING else Both((first, *items[1:]))
        case Except(item, removed):
            return without(_restrict(item, chars, at_end=at_end), removed)
        case _:
            raise TypeError(f"a regular expression holds no {type(expression).__name__}")
