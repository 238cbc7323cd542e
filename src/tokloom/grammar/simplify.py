"""Expressions that are simplified as they are put together; the language is that of the plain classes."""

from __future__ import annotations

from tokloom.grammar.expression import (
    EMPTY,
    NOTHING,
    Both,
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


def repeat(item: Expression, minimum: int, maximum: int | None) -> Expression:
    if maximum == 0 or item == EMPTY:
        return EMPTY
    if item == NOTHING:
        return NOTHING if minimum else EMPTY
    if (minimum, maximum) == (1, 1):
        return item
    return Repeat(item, minimum, maximum)


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
    """Whether the empty string is in it; an expression without rules."""
    match expression:
        case Literal(data):
            return not data
        case Concat(items) | Both(items):
            return all(map(nullable, items))
        case Either(items):
            return any(map(nullable, items))
        case Repeat(item, minimum, _):
            return minimum == 0 or nullable(item)
        case Except(item, removed):
            return nullable(item) and not nullable(removed)
        case _:
            return False
