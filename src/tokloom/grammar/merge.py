"""Rules of several grammars in one: names are kept apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
            case Repeat(item, minimum, maximum):
                return Repeat(inner(item), minimum, maximum)
            case Except(item, removed):
                return Except(inner(item), inner(removed))
            case AnyOrder(members, separator, minimum, maximum):
                moved = tuple(replace(member, item=inner(member.item)) for member in members)
                return AnyOrder(moved, inner(separator), minimum, maximum)
            case _:
                return e

    return inner(expression)


def apart(grammar: Grammar, prefix: str) -> Grammar:
    """The grammar with "prefix/" before the names of its rules."""

    def name(old: str) -> str:
        return f"{prefix}/{old}"

    rules = {name(old): renamed(body, name) for old, body in grammar.rules.items()}
    return Grammar(renamed(grammar.start, name), rules)


def joined(grammars: Iterable[Grammar]) -> tuple[list[Expression], dict[str, Expression]]:
    """The starts of all grammars, over rules that they share where these are the same and that are apart where not."""
    starts: list[Expression] = []
    rules: dict[str, Expression] = {}
    for grammar in grammars:
        number = 2
        own = grammar
        while any(rules.get(name, body) != body for name, body in own.rules.items()):
            own = apart(grammar, str(number))
            number += 1
        rules.update(own.rules)
        starts.append(own.start)
    return starts, rules
