"""The values that don't have a shape: for `not`, `oneOf`, `if` and upper bounds on `contains`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tokloom.grammar.json_schema.languages import Strings
from tokloom.grammar.json_schema.shapes import (
    ANYTHING,
    IMPOSSIBLE,
    ArrayShape,
    BooleanShape,
    Clause,
    Contains,
    Node,
    NullShape,
    NumberShape,
    ObjectShape,
    Only,
    Shape,
    StringShape,
    Whole,
)


def negated(node: Node, wholes: dict[Node, Whole]) -> Node:
    """The values that are not in the node. `wholes` has the one object for every conjunction."""
    if not node:
        return IMPOSSIBLE
    if node is IMPOSSIBLE:
        return ANYTHING
    if len(node) == 1:
        ((schema, positive),) = node
        return frozenset({(schema, not positive)})
    whole = wholes.get(node)
    if whole is None:
        whole = wholes[node] = Whole(node)
    return frozenset({(whole, False)})


def complement(shape: Shape, negate: Callable[[Node], Node]) -> list[Shape]:
    """The shapes of the values of the same type that don't have this one.

    Raises GrammarError, with the place of the keyword, where no shape can say so.
    """
    match shape:
        case NullShape():
            return []
        case BooleanShape(values):
            rest = frozenset({False, True}) - values
            return [BooleanShape(rest)] if rest else []
        case NumberShape():
            return list(_number(shape))
        case StringShape():
            return list(_string(shape))
        case ArrayShape():
            return list(_array(shape, negate))
        case ObjectShape():
            return list(_object(shape, negate))


def _number(shape: NumberShape) -> list[NumberShape]:
    found = []
    if shape.low is not None:
        found.append(NumberShape(high=(shape.low[0], not shape.low[1])))
    if shape.high is not None:
        found.append(NumberShape(low=(shape.high[0], not shape.high[1])))
    if shape.integer is not None:
        found.append(NumberShape(integer=not shape.integer, plain=shape.integer is False and shape.plain))
    if shape.multiple is not None:
        found.append(NumberShape(not_multiples=(shape.multiple,), origin=shape.origin))
    found += [NumberShape(multiple=each, origin=shape.origin) for each in shape.not_multiples]
    return found


def _string(shape: StringShape) -> list[StringShape]:
    found = []
    if shape.values is not None:
        return [StringShape(outside=(Strings(shape.values),))]
    if shape.minimum:
        found.append(StringShape(maximum=shape.minimum - 1))
    if shape.maximum is not None:
        found.append(StringShape(minimum=shape.maximum + 1))
    found += [StringShape(outside=(language,)) for language in shape.inside]
    for language in shape.outside:
        if isinstance(language, Strings):
            found.append(StringShape(values=language.values))
        else:
            found.append(StringShape(inside=(language,)))
    return found


def _array(shape: ArrayShape, negate: Callable[[Node], Node]) -> list[ArrayShape]:
    found = []
    if shape.minimum:
        found.append(ArrayShape(maximum=shape.minimum - 1))
    if shape.maximum is not None:
        found.append(ArrayShape(minimum=shape.maximum + 1))
    for index, node in enumerate(shape.prefix):
        if node:
            wrong = (*(ANYTHING,) * index, negate(node))
            found.append(ArrayShape(prefix=wrong, minimum=index + 1))
    size = len(shape.prefix)
    if shape.rest is IMPOSSIBLE:
        if shape.maximum is None or shape.maximum > size:
            found.append(ArrayShape(minimum=size + 1))
    elif shape.rest:
        # With an origin, since more than one such demand may be more than a grammar can hold.
        wrong_items = Contains(size, negate(shape.rest), 1, None)
        found.append(ArrayShape(contains=(wrong_items,)))
    for each in shape.contains:
        if each.minimum:
            found.append(ArrayShape(contains=(replace(each, minimum=0, maximum=each.minimum - 1),)))
        if each.maximum is not None:
            found.append(ArrayShape(contains=(replace(each, minimum=each.maximum + 1, maximum=None),)))
    if shape.unique is not None:
        raise shape.unique.error("the opposite of uniqueItems can't be enforced", "uniqueItems")
    return found


def _object(shape: ObjectShape, negate: Callable[[Node], Node]) -> list[ObjectShape]:
    found = []
    for name in sorted(shape.required):
        found.append(ObjectShape({name: IMPOSSIBLE}))
    for name, node in shape.properties.items():
        if node:
            found.append(ObjectShape({name: negate(node)}, frozenset({name})))
    for clause in shape.clauses:
        if clause.node:
            found += _having(replace(clause, node=negate(clause.node)))
    for demand in shape.demands:
        found.append(ObjectShape({}, clauses=(replace(demand, node=negate(demand.node)),)))
    if shape.minimum:
        found.append(ObjectShape({}, maximum=shape.minimum - 1, origin=shape.origin))
    if shape.maximum is not None:
        found.append(ObjectShape({}, minimum=shape.maximum + 1, origin=shape.origin))
    return found


def _having(demand: Clause) -> list[ObjectShape]:
    if isinstance(demand.names, Only):
        return [ObjectShape({name: demand.node}, frozenset({name})) for name in sorted(demand.names.names)]
    return [ObjectShape({}, demands=(demand,))]
