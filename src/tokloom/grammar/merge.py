"""Rules of several grammars in one: names are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tokloom.grammar.expression import (
    AnyOrder,
    Both,
    Concat,
    Either,
    Except,
    Expression,
    Grammar,
    Ref,
    Repeat,
)


def renamed(expression: Expression, name: Callable[[str], str]) -> Expression:
    """The expression with every rule's name replaced."""

    def inner(e: Expression) -> Expression:
        match e:
            case Ref(old):
                return Ref(name(old))
            case Concat(items):
                return Concat(tuple(map(inner, items)))
            case Either(items):
                return Either(tuple(map(inner, items)))
            case Both(items):
                return Both(tuple(map(inner, items)))
            case Repeat(item, least, most):
                return Repeat(inner(item), least, most)
            case Except(item, removed):
                return Except(inner(item), inner(removed))
            case AnyOrder(members, separator, least, most):
                moved = tuple(replace(member, item=inner(member.item)) for member in members)
                return AnyOrder(moved, inner(separator), least, most)
            case _:
                return e

    return inner(expression)


def apart(grammar: Grammar, prefix: str) -> Grammar:
    """The grammar with "prefix/" before the names of its rules."""

    def name(old: str) -> str:
        return f"{prefix}/{old}"

    rules = {name(old): renamed(body, name) for old, body in grammar.rules.items()}
    return Grammar(renamed(grammar.start, name), rules)
