"""Normal form: what a schema allows, as a list of shapes, each for one type of value.

A value is valid if it has one of the shapes. Values inside of arrays and objects are told by nodes:
a node is a conjunction of schemas and negated schemas, expanded into shapes only when it is needed,
so that recursive schemas stay finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, TypeAlias

from tokloom.grammar.json_schema.document import Schema
from tokloom.grammar.json_schema.languages import Language


@dataclass(frozen=True, eq=False)
class Whole:
    """A conjunction as a single thing, so that it can be negated."""

    node: Node


Literal: TypeAlias = tuple[Schema | Whole, bool]
"""A schema, and whether it must hold or must not."""

Node: TypeAlias = frozenset[Literal]
"""All of these at once."""

ANYTHING: Node = frozenset()
IMPOSSIBLE: Node = frozenset({(Whole(ANYTHING), False)})


def both(left: Node, right: Node) -> Node:
    """The values that are in both."""
    if not left or left is right:
        return right
    if not right:
        return left
    if left is IMPOSSIBLE or right is IMPOSSIBLE:
        return IMPOSSIBLE
    union = left | right
    if any((schema, not positive) in union for schema, positive in union):
        return IMPOSSIBLE
    return union


@dataclass(frozen=True, slots=True)
class Only:
    """These property names."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Matching:
    """The property names in a language."""

    language: Language


@dataclass(frozen=True, slots=True)
class Outside:
    """The property names in none of the parts; all names if there are none."""

    parts: tuple[Names, ...] = ()


Names: TypeAlias = Only | Matching | Outside


def known_names(names: Names) -> Iterable[str]:
    """The names that it speaks of one by one."""
    match names:
        case Only(only):
            return only
        case Outside(parts):
            return [name for part in parts for name in known_names(part)]
    return ()


def languages(names: Names) -> Iterable[Language]:
    """The languages that it speaks of."""
    match names:
        case Matching(language):
            return (language,)
        case Outside(parts):
            return [language for part in parts for language in languages(part)]
    return ()


def has_name(names: Names, name: str) -> bool:
    """Whether the name is among the names."""
    match names:
        case Only(only):
            return name in only
        case Matching(language):
            return language.contains(name)
        case Outside(parts):
            return not any(has_name(part, name) for part in parts)


def has_region(names: Names, inside: frozenset[Language]) -> bool:
    """Whether the names that nothing speaks of one by one, in these languages and no others, are among the names."""
    match names:
        case Only():
            return False
        case Matching(language):
            return language in inside
        case Outside(parts):
            return not any(has_region(part, inside) for part in parts)


@dataclass(frozen=True, slots=True)
class Clause:
    """What the values of some property names must be. As a demand: one of the names at least, with such a value."""

    names: Names
    node: Node
    origin: Schema | None = None


@dataclass(slots=True)
class NullShape:
    kind: ClassVar[str] = "null"


@dataclass(slots=True)
class BooleanShape:
    kind: ClassVar[str] = "boolean"
    values: frozenset[bool] = frozenset({False, True})


Bound: TypeAlias = tuple[Fraction, bool]
"""A number and whether it is itself allowed."""


@dataclass(frozen=True, slots=True)
class NumberShape:
    """integer: True for integers only, False for others only. plain: integers are written without a fraction."""

    kind: ClassVar[str] = "number"
    integer: bool | None = None
    plain: bool = False
    low: Bound | None = None
    high: Bound | None = None
    multiple: Fraction | None = None
    not_multiples: tuple[Fraction, ...] = ()
    origin: Schema | None = None


@dataclass(slots=True)
class StringShape:
    """values: one of these, if not None. inside, outside: languages that it must and must not be in."""

    kind: ClassVar[str] = "string"
    minimum: int = 0
    maximum: int | None = None
    values: frozenset[str] | None = None
    inside: tuple[Language, ...] = ()
    outside: tuple[Language, ...] = ()


@dataclass(frozen=True, slots=True)
class Contains:
    """How many of the items from index `start` on are in the node."""

    start: int
    node: Node
    minimum: int
    maximum: int | None
    origin: Schema | None = None


@dataclass(slots=True)
class ArrayShape:
    """evaluated: how many items an `unevaluatedItems` passes over, None for all. passed: it also passes over items in
    one of these."""

    kind: ClassVar[str] = "array"
    prefix: tuple[Node, ...] = ()
    rest: Node = ANYTHING
    minimum: int = 0
    maximum: int | None = None
    contains: tuple[Contains, ...] = ()
    unique: Schema | None = None
    evaluated: int | None = 0
    passed: tuple[Node, ...] = ()


@dataclass(slots=True)
class ObjectShape:
    """properties: the node of a name, beside which all clauses that have the name hold.
    evaluated: the names that an `unevaluatedProperties` must pass over."""

    kind: ClassVar[str] = "object"
    properties: dict[str, Node]
    required: frozenset[str] = frozenset()
    clauses: tuple[Clause, ...] = ()
    demands: tuple[Clause, ...] = ()
    minimum: int = 0
    maximum: int | None = None
    evaluated: tuple[Names, ...] = ()
    origin: Schema | None = None


Shape: TypeAlias = NullShape | BooleanShape | NumberShape | StringShape | ArrayShape | ObjectShape


def all_shapes() -> list[Shape]:
    """The shapes of every value."""
    return [NullShape(), BooleanShape(), NumberShape(), StringShape(), ArrayShape(), ObjectShape({})]
