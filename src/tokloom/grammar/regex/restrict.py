"""Parts of a regular language, taken from its expression: the strings that begin or end with certain characters.

The expressions are those that a regular expression becomes: literals of whole characters, `Chars`, `Concat`,
`Either`, `Repeat`, `Both` and `Except`.
"""

from __future__ import annotations

from tokloom.grammar.characters import ALL, Ranges, contains, intersection
from tokloom.grammar.expression import (
    EMPTY,
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


def concat(*items: Expression) -> Expression:
    """One after the other, flat, with literals joined; nothing if an item is nothing."""
    flat: list[Expression] = []
    for item in items:
        for part in item.items if isinstance(item, Concat) else (item,):
            if part == NOTHING:
                return NOTHING
            if isinstance(part, Literal):
                if not part.data:
                    continue
                if flat and isinstance(last := flat[-1], Literal):
                    flat[-1] = Literal(last.data + part.data)
                    continue
            flat.append(part)
    if not flat:
        return EMPTY
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def either(*items: Expression) -> Expression:
    """Any of the items, flat and each once."""
    flat: dict[Expression, None] = {}
    for item in items:
        for part in item.items if isinstance(item, Either) else (item,):
            flat[part] = None
    return next(iter(flat)) if len(flat) == 1 else Either(tuple(flat))


def repeat(item: Expression, least: int, most: int | None) -> Expression:
    if most == 0 or item == EMPTY:
        return EMPTY
    if item == NOTHING:
        return NOTHING if least else EMPTY
    if (least, most) == (1, 1):
        return item
    return Repeat(item, least, most)


def both(left: Expression, right: Expression) -> Expression:
    """In both; decided at once where a side is empty or nothing."""
    for side, other in ((left, right), (right, left)):
        if side == NOTHING:
            return NOTHING
        if side == EMPTY:
            return EMPTY if nullable(other) else NOTHING
    return left if left == right else Both((left, right))


def without(item: Expression, removed: Expression) -> Expression:
    if item == NOTHING or removed == NOTHING:
        return item
    if item == EMPTY:
        return NOTHING if nullable(removed) else EMPTY
    return Except(item, removed)


def nullable(expression: Expression) -> bool:
    """Whether the empty string is in it."""
    match expression:
        case Literal(data):
            return not data
        case Concat(items) | Both(items):
            return all(map(nullable, items))
        case Either(items):
            return any(map(nullable, items))
        case Repeat(item, least, _):
            return least == 0 or nullable(item)
        case Except(item, removed):
            return nullable(item) and not nullable(removed)
        case _:
            return False


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
        case Repeat(item, least, most):
            one = _restrict(item, chars, at_end=at_end)
            rest = repeat(item, max(least - 1, 0), None if most is None else most - 1)
            return concat(rest, one) if at_end else concat(one, rest)
        case Both(items):
            first = _restrict(items[0], chars, at_end=at_end)
            return NOTHING if first == NOTHING else Both((first, *items[1:]))
        case Except(item, removed):
            return without(_restrict(item, chars, at_end=at_end), removed)
        case _:
            raise TypeError(f"a regular expression holds no {type(expression).__name__}")
