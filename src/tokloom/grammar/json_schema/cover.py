"""Which shapes are a part of others, so that fewer alternatives are left."""

from __future__ import annotations

from tokloom.grammar.json_schema.shapes import (
    IMPOSSIBLE,
    ArrayShape,
    Node,
    NumberShape,
    ObjectShape,
    Shape,
    StringShape,
)

MANY = 100
"""Beyond this many, shapes are not compared with each other."""


def without_covered(shapes: list[Shape]) -> list[Shape]:
    """Without the shapes that are plainly parts of others."""
    if not 1 < len(shapes) <= MANY:
        return shapes
    kept: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, NumberShape):  # mostly the gaps between numbers that are excluded, all of them different
            kept.append(shape)
            continue
        if any(covers(other, shape) for other in kept):
            continue
        kept = [other for other in kept if not covers(shape, other)]
        kept.append(shape)
    return kept


def covers(whole: Shape, part: Shape) -> bool:
    """Whether it is plain that every value of `part` has the shape `whole`."""
    if whole.kind != part.kind:
        return False
    match whole, part:
        case ObjectShape(), ObjectShape():
            return _covers_object(whole, part)
        case ArrayShape(), ArrayShape():
            return _covers_array(whole, part)
        case StringShape(), StringShape():
            if whole.values is not None or part.values is not None:
                return whole == part
            return (
                _in_range(whole.minimum, whole.maximum, part.minimum, part.maximum)
                and set(whole.inside) <= set(part.inside)
                and set(whole.outside) <= set(part.outside)
            )
    return whole == part


def _covers_object(whole: ObjectShape, part: ObjectShape) -> bool:
    return (
        whole.required <= part.required
        and _in_range(whole.minimum, whole.maximum, part.minimum, part.maximum)
        and all(_implied(node, part.properties.get(name, frozenset())) for name, node in whole.properties.items())
        and set(whole.clauses) <= set(part.clauses)
        and all(demand in part.demands for demand in whole.demands)
        and set(part.evaluated) <= set(whole.evaluated)
    )


def _covers_array(whole: ArrayShape, part: ArrayShape) -> bool:
    size = max(len(whole.prefix), len(part.prefix))
    mine = [*whole.prefix, *[whole.rest] * (size - len(whole.prefix))]
    other = [*part.prefix, *[part.rest] * (size - len(part.prefix))]
    return (
        _in_range(whole.minimum, whole.maximum, part.minimum, part.maximum)
        and all(_implied(left, right) for left, right in zip(mine, other, strict=True))
        and _implied(whole.rest, part.rest)
        and set(whole.contains) <= set(part.contains)
        and whole.unique in (None, part.unique)
        and whole.evaluated == part.evaluated
        and whole.passed == part.passed
    )


def _implied(node: Node, by: Node) -> bool:
    return node <= by or by is IMPOSSIBLE


def _in_range(minimum: int, maximum: int | None, inner_minimum: int, inner_maximum: int | None) -> bool:
    return minimum <= inner_minimum and (maximum is None or (inner_maximum is not None and inner_maximum <= maximum))
