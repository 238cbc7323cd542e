"""Whether a recursive grammar ever comes to an end."""

from __future__ import annotations

from tokloom.grammar.expression import AnyOrder, Bytes, Chars, Concat, Either, Expression, Grammar, Ref, Repeat


def is_productive(grammar: Grammar) -> bool:
    """Whether the grammar has a string at all. Intersections and differences are taken to have one."""
    ended: set[str] = set()

    def ends(expression: Expression) -> bool:
        match expression:
            case Ref(name):
                return name in ended
            case Concat(items):
                return all(map(ends, items))
            case Either(items):
                return any(map(ends, items))
            case Repeat(item, minimum):
                return minimum == 0 or ends(item)
            case Bytes(ranges) | Chars(ranges):
                return bool(ranges)
            case AnyOrder(members, _, minimum):
                possible = sum(1 for member in members if ends(member.item))
                return possible >= min(minimum, 1) and all(ends(each.item) for each in members if each.minimum)
        return True

    while not ends(grammar.start):
        found = [name for name, expression in grammar.rules.items() if name not in ended and ends(expression)]
        if not found:
            return False
        ended.update(found)
    return True
