"""What two shapes have in common, if anything."""

from __future__ import annotations

from collections.abc import Iterable

from tokloom.grammar.json_schema.languages import Within
from tokloom.grammar.json_schema.numerals import common_multiple
from tokloom.grammar.json_schema.shapes import (
    IMPOSSIBLE,
    ArrayShape,
    BooleanShape,
    Bound,
    NullShape,
    NumberShape,
    ObjectShape,
    Shape,
    StringShape,
    both,
)


def intersect_all(left: list[Shape], right: list[Shape]) -> list[Shape]:
    """The shapes of the values that have a shape of each list."""
    found: list[Shape] = []
    for first in left:
        for second in right:
            if first.kind == second.kind:
                common = intersect(first, second)
                if common is not None:
                    found.append(common)
    return unique(found)


def unique(shapes: list[Shape]) -> list[Shape]:
    """Without doubles, if there are few enough to look for them."""
    if len(shapes) < 2 or len(shapes) > 64:
        return shapes
    kept: list[Shape] = []
    for shape in shapes:
        if shape not in kept:
            kept.append(shape)
    return kept


def intersect(left: Shape, right: Shape) -> Shape | None:
    """The common shape of two of one type; None if it is plain that no value has both."""
    match left, right:
        case NullShape(), NullShape():
            return left
        case BooleanShape(), BooleanShape():
            values = left.values & right.values
            return BooleanShape(values) if values else None
        case NumberShape(), NumberShape():
            return _numbers(left, right)
        case StringShape(), StringShape():
            return _strings(left, right)
        case ArrayShape(), ArrayShape():
            return _arrays(left, right)
        case ObjectShape(), ObjectShape():
            return _objects(left, right)
    raise TypeError(f"{left} and {right} are not of one type")


def _numbers(left: NumberShape, right: NumberShape) -> NumberShape | None:
    if None not in (left.integer, right.integer) and left.integer != right.integer:
        return None
    low = _tighter(left.low, right.low, lower=True)
    high = _tighter(left.high, right.high, lower=False)
    if low is not None and high is not None and (low[0] > high[0] or (low[0] == high[0] and not (low[1] and high[1]))):
        return None
    multiple = left.multiple or right.multiple
    if left.multiple is not None and right.multiple is not None:
        multiple = common_multiple(left.multiple, right.multiple)
    integer = right.integer if left.integer is None else left.integer
    if low is not None and low == high:
        number = low[0]
        whole = number.denominator == 1
        if integer is not None and integer != whole:
            return None
        if multiple is not None and (number / multiple).denominator != 1:
            return None
        if any((number / each).denominator == 1 for each in (*left.not_multiples, *right.not_multiples)):
            return None
        multiple = None
    return NumberShape(
        integer,
        left.plain or right.plain,
        low,
        high,
        multiple,
        tuple(dict.fromkeys(left.not_multiples + right.not_multiples)),
        left.origin or right.origin,
    )


def _tighter(left: Bound | None, right: Bound | None, *, lower: bool) -> Bound | None:
    if left is None or right is None:
        return right if left is None else left
    if left[0] == right[0]:
        return (left[0], left[1] and right[1])
    return left if (left[0] > right[0]) == lower else right


def _strings(left: StringShape, right: StringShape) -> StringShape | None:
    maximum = _less(left.maximum, right.maximum)
    minimum = max(left.minimum, right.minimum)
    if maximum is not None and minimum > maximum:
        return None
    inside = tuple(dict.fromkeys(left.inside + right.inside))
    outside = tuple(dict.fromkeys(left.outside + right.outside))
    if left.values is None and right.values is None:
        return StringShape(minimum, maximum, None, inside, outside)
    values: Iterable[str] = left.values or right.values or ()
    if left.values is not None and right.values is not None:
        values = left.values & right.values
    within = Within(minimum, maximum, inside, outside)
    kept = frozenset(value for value in values if within.contains(value))
    return StringShape(values=kept) if kept else None


def _less(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)


def _arrays(left: ArrayShape, right: ArrayShape) -> ArrayShape | None:
    minimum, maximum = max(left.minimum, right.minimum), _less(left.maximum, right.maximum)
    size = max(len(left.prefix), len(right.prefix))
    prefix = []
    for index in range(size):
        first = left.prefix[index] if index < len(left.prefix) else left.rest
        second = right.prefix[index] if index < len(right.prefix) else right.rest
        prefix.append(both(first, second))
    rest = both(left.rest, right.rest)
    ends = [index for index, node in enumerate(prefix) if node is IMPOSSIBLE]
    if ends or rest is IMPOSSIBLE:
        maximum = _less(maximum, ends[0] if ends else size)
    if maximum is not None and minimum > maximum:
        return None
    evaluated = None if left.evaluated is None or right.evaluated is None else max(left.evaluated, right.evaluated)
    return ArrayShape(
        tuple(prefix),
        rest,
        minimum,
        maximum,
        tuple(dict.fromkeys(left.contains + right.contains)),
        left.unique or right.unique,
        evaluated,
        tuple(dict.fromkeys(left.passed + right.passed)),
    )


def _objects(left: ObjectShape, right: ObjectShape) -> ObjectShape | None:
    minimum, maximum = max(left.minimum, right.minimum), _less(left.maximum, right.maximum)
    required = left.required | right.required
    if maximum is not None and (minimum > maximum or len(required) > maximum):
        return None
    if not right.properties or not left.properties:
        properties = left.properties or right.properties
    else:
        properties = dict(left.properties)
        for name, node in right.properties.items():
            mine = properties.get(name)
            properties[name] = node if mine is None else both(mine, node)
    for name in required:
        if properties.get(name) is IMPOSSIBLE:
            return None
    return ObjectShape(
        properties,
        required,
        left.clauses if left.clauses == right.clauses else tuple(dict.fromkeys(left.clauses + right.clauses)),
        left.demands + right.demands,
        minimum,
        maximum,
        left.evaluated + right.evaluated,
        left.origin or right.origin,
    )
