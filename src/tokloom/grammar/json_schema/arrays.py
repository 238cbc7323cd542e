"""The texts of arrays."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from tokloom.grammar.expression import EMPTY, NOTHING, AnyOrder, Concat, Either, Expression, Member, Ref, Repeat
from tokloom.grammar.json_schema.shapes import (
    IMPOSSIBLE,
    ArrayShape,
    BooleanShape,
    Contains,
    Node,
    NullShape,
    NumberShape,
    Shape,
    StringShape,
    both,
)

if TYPE_CHECKING:
    from tokloom.grammar.json_schema.compiler import Compiler

STATES = 500
"""How many states of counting a `contains` may need."""


def array_body(shape: ArrayShape, depth: int, compiler: Compiler) -> Expression:
    """The texts of the arrays of a shape, brackets included."""
    maximum = shape.maximum
    for index, node in enumerate((*shape.prefix, shape.rest)):
        if maximum is not None and index >= maximum:
            break
        if node and compiler.value(node, depth + 1) == NOTHING:
            maximum = index
    if maximum is not None and shape.minimum > maximum:
        return NOTHING
    if shape.unique is not None and (maximum is None or maximum > 1):
        distinct = _distinct(shape, maximum, depth, compiler)
        if distinct is not None:
            return distinct
    empty = shape.minimum == 0 and all(each.minimum == 0 for each in shape.contains)
    items: Expression = NOTHING
    if maximum != 0:
        count = _counted if shape.contains else _items
        items = count(shape, maximum, depth, compiler)
    if items == NOTHING:
        return compiler.layout.bracket(b"[", b"]", None, True, depth) if empty else NOTHING
    return compiler.layout.bracket(b"[", b"]", items, empty, depth)


def _items(shape: ArrayShape, maximum: int | None, depth: int, compiler: Compiler) -> Expression:
    """One item at least, and its followers."""
    separator, size = compiler.layout.separator(depth), len(shape.prefix)
    tail: Expression = EMPTY
    if maximum is None or maximum > size:
        item = compiler.value(shape.rest, depth + 1)
        if size == 0:
            more = Repeat(
                Concat((separator, item)), max(shape.minimum - 1, 0), None if maximum is None else maximum - 1
            )
            return item if maximum == 1 else Concat((item, more))
        tail = Repeat(
            Concat((separator, item)), max(shape.minimum - size, 0), None if maximum is None else maximum - size
        )
    for index in range(min(size, size if maximum is None else maximum) - 1, -1, -1):
        item = compiler.value(shape.prefix[index], depth + 1)
        own = (item,) if index == 0 else (separator, item)
        tail = Concat(own) if tail is EMPTY else Concat((*own, tail))
        if index > 0 and index >= shape.minimum:
            tail = Repeat(tail, 0, 1)
    return tail


def _distinct(shape: ArrayShape, maximum: int | None, depth: int, compiler: Compiler) -> Expression | None:
    """Arrays without equal items. None if no two could be equal anyway; refuses what can't be decided."""
    forms, layout = compiler.forms, compiler.layout
    closed = maximum is not None and maximum <= len(shape.prefix)
    if closed and _differ([*shape.prefix[:maximum]], compiler):
        return None
    if not shape.prefix and not shape.contains:
        values = _values(shape.rest, compiler)
        if values is not None:
            members = tuple(Member(compiler.shape(value, depth + 1)) for value in values)
            top = min(len(values), len(values) if maximum is None else maximum)
            if shape.minimum > top:
                return NOTHING
            items = AnyOrder(members, layout.separator(depth), max(shape.minimum, 1), top)
            return layout.bracket(b"[", b"]", items, shape.minimum == 0, depth)
    assert shape.unique is not None
    problem = "items that must differ can only be told apart if they are out of a list of values"
    hint = "Give the items an enum, or check uniqueness afterwards."
    forms.refuse(shape.unique.error(problem, "uniqueItems", hint), "uniqueItems")
    return None


def _differ(nodes: list[Node], compiler: Compiler) -> bool:
    """Whether it is certain that no two of the items can be equal."""
    forms = compiler.forms
    return all(forms.is_empty(both(left, right)) for index, left in enumerate(nodes) for right in nodes[index + 1 :])


def _values(node: Node, compiler: Compiler) -> list[Shape] | None:
    """A shape for each of the node's values, if these are scalars and finitely many."""
    found: list[Shape] = []
    for shape in compiler.forms.expand(node):
        match shape:
            case NullShape():
                found.append(shape)
            case BooleanShape(values):
                found += [BooleanShape(frozenset({value})) for value in sorted(values)]
            case StringShape(values=values) if values is not None:
                found += [StringShape(values=frozenset({value})) for value in sorted(values)]
            case NumberShape(low=low, high=high) if low is not None and low == high:
                found.append(shape)
            case _:
                return None
    kept: list[Shape] = []
    for shape in found:  # branches of an anyOf may have values in common
        if shape not in kept:
            kept.append(shape)
    return kept


def _counted(shape: ArrayShape, maximum: int | None, depth: int, compiler: Compiler) -> Expression:
    """One item at least, and its followers, with as many of them in each `contains` as it asks for."""
    contains = shape.contains
    if len(contains) == 1 and not shape.prefix and contains[0].start == 0:
        return _mixed(shape, contains[0], maximum, depth, compiler)
    horizon = max([len(shape.prefix), shape.minimum, maximum or 0, *(each.start for each in contains)])
    caps = [each.minimum if each.maximum is None else each.maximum for each in contains]
    size = horizon + 1
    for cap in caps:
        size *= cap + 1
    origin = next((each.origin for each in contains if each.origin is not None), None)
    if size > STATES:
        where = origin or compiler.forms.document.root
        problem = f"to count the items needs more than {STATES} states"
        compiler.forms.refuse(where.error(problem, "contains"), "contains")
        return _items(shape, maximum, depth, compiler)
    return _Counter(shape, maximum, depth, compiler, horizon, caps).state(0, (0,) * len(contains), first=True)


def _mixed(shape: ArrayShape, one: Contains, maximum: int | None, depth: int, compiler: Compiler) -> Expression:
    """Items of a kind among others, in any order."""
    inside = compiler.value(both(shape.rest, one.node), depth + 1)
    others = shape.rest
    if one.maximum is not None:
        others = both(others, compiler.forms.negate(one.node))
    outside = compiler.value(others, depth + 1)
    members = []
    if one.maximum != 0 and inside != NOTHING:
        members.append(Member(inside, one.minimum, one.maximum))
    elif one.minimum:
        return NOTHING
    if outside != NOTHING:
        members.append(Member(outside, 0, None))
    if not members:
        return NOTHING
    return AnyOrder(tuple(members), compiler.layout.separator(depth), max(shape.minimum, one.minimum, 1), maximum)


class _Counter:
    """Rules for the rest of an array, one for each number of items and each set of counts."""

    def __init__(
        self, shape: ArrayShape, maximum: int | None, depth: int, compiler: Compiler, horizon: int, caps: list[int]
    ) -> None:
        self.shape, self.maximum, self.depth, self.compiler = shape, maximum, depth, compiler
        self.horizon, self.caps = horizon, caps
        self.known: dict[tuple[int, tuple[int, ...], bool], Ref] = {}
        self.separator = compiler.layout.separator(depth)

    def state(self, index: int, counts: tuple[int, ...], *, first: bool = False) -> Expression:
        key = (index, counts, first)
        known = self.known.get(key)
        if known is not None:
            return known
        rules = self.compiler.rules
        name = f"items {len(rules)}"
        known = self.known[key] = Ref(name)
        rules[name] = NOTHING  # taken
        self.compiler.recursive = True
        contains = self.shape.contains
        ways: list[Expression] = []
        enough = all(count >= each.minimum for count, each in zip(counts, contains, strict=True))
        if not first and enough and index >= self.shape.minimum:
            ways.append(EMPTY)
        if self.maximum is None or index < self.maximum:
            node = self.shape.prefix[index] if index < len(self.shape.prefix) else self.shape.rest
            following = min(index + 1, self.horizon)
            for signs in product((False, True), repeat=len(contains)):
                item = self._item(node, index, counts, signs)
                if item is None or item == NOTHING:
                    continue
                more = tuple(min(c + s, cap) for c, s, cap in zip(counts, signs, self.caps, strict=True))
                rest = self.state(following, more)
                ways.append(Concat((item, rest) if first else (self.separator, item, rest)))
        rules[name] = Either(tuple(ways))
        return known

    def _item(self, node: Node, index: int, counts: tuple[int, ...], signs: tuple[bool, ...]) -> Expression | None:
        """An item in those `contains` that have a sign; out of the others, where that matters."""
        for each, count, sign in zip(self.shape.contains, counts, signs, strict=True):
            counting = index >= each.start
            if sign and (not counting or (each.maximum is not None and count >= each.maximum)):
                return None
            if sign and each.maximum is None and count >= each.minimum:
                return None  # already enough
            if sign:
                node = both(node, each.node)
            elif counting and each.maximum is not None:
                node = both(node, self.compiler.forms.negate(each.node))
        return NOTHING if node is IMPOSSIBLE else self.compiler.value(node, self.depth + 1)
