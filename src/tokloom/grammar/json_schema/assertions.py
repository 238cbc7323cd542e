"""The keywords that speak of one type of value, as shapes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import formats
from tokloom.grammar.json_schema.document import Schema
from tokloom.grammar.json_schema.languages import Format, Language, Pattern, Within
from tokloom.grammar.json_schema.numerals import common_multiple, exact
from tokloom.grammar.json_schema.shapes import (
    ANYTHING,
    IMPOSSIBLE,
    ArrayShape,
    BooleanShape,
    Bound,
    Clause,
    Contains,
    Matching,
    Names,
    Node,
    NullShape,
    NumberShape,
    ObjectShape,
    Only,
    Outside,
    Shape,
    StringShape,
)

if TYPE_CHECKING:
    from tokloom.grammar.json_schema.normal import Forms

Present = dict[str, Any]
"""The keywords of a schema that constrain instances, with their values."""


def typed_shapes(schema: Schema, present: Present, forms: Forms) -> list[Shape]:
    """The shapes that the schema's `type` and the keywords of each type allow."""
    named = present.get("type")
    types = set(named) if isinstance(named, list) else {named} if named is not None else set(_BUILDERS)
    if "integer" in types and named is not None and "number" not in types:
        types.add("number")
    return [_BUILDERS[kind](schema, present, forms) for kind in _BUILDERS if kind in types]


def _null(schema: Schema, present: Present, forms: Forms) -> Shape:
    return NullShape()


def _boolean(schema: Schema, present: Present, forms: Forms) -> Shape:
    return BooleanShape()


def _number(schema: Schema, present: Present, forms: Forms) -> Shape:
    named = present.get("type")
    integer = named == "integer" or (isinstance(named, list) and "integer" in named and "number" not in named)
    low = _bound(present, "minimum", "exclusiveMinimum", max)
    high = _bound(present, "maximum", "exclusiveMaximum", min)
    multiple = exact(present["multipleOf"]) if "multipleOf" in present else None
    if integer and multiple is not None:
        multiple = common_multiple(multiple, Fraction(1))
        multiple = None if multiple == 1 else multiple
    return NumberShape(integer or None, integer and schema.draft == 4, low, high, multiple, (), schema)


def _bound(present: Present, inclusive: str, exclusive: str, tightest: Callable[..., Any]) -> Bound | None:
    found: list[tuple[Fraction, bool]] = []
    also = present.get(exclusive)
    if inclusive in present:
        found.append((exact(present[inclusive]), also is not True))  # in draft 4 the other one is a flag
    if also is not None and not isinstance(also, bool):
        found.append((exact(also), False))
    if not found:
        return None
    number = tightest(number for number, _ in found)
    return number, all(closed for each, closed in found if each == number)


def _string(schema: Schema, present: Present, forms: Forms) -> Shape:
    minimum, maximum = count(present, "minLength", 0), count(present, "maxLength", None)
    inside: list[Language] = []
    if "pattern" in present:
        inside += _pattern(schema, present["pattern"], forms, "pattern")
    if "format" in present and forms.formats:
        if present["format"] in formats.NAMES:
            inside.append(Format(present["format"]))
        else:
            forms.ignore(schema, "format", f"{present['format']!r} is no format of the specification")
    return StringShape(minimum or 0, maximum, None, tuple(inside))


def _pattern(schema: Schema, source: str, forms: Forms, *place: str) -> list[Language]:
    pattern = Pattern(source)
    try:
        pattern.check()
    except GrammarError as error:
        where = "/".join(place)
        forms.refuse(schema.error(f"{where} {source!r}: {error.where}: {error.problem}", where), where)
        return []
    return [pattern]


def _array(schema: Schema, present: Present, forms: Forms) -> Shape:
    prefix: list[Any] = []
    rest, evaluated, more = ANYTHING, 0, "items"
    if "prefixItems" in present:
        prefix = [forms.node(schema.child("prefixItems", i)) for i in range(len(present["prefixItems"]))]
        evaluated = len(prefix)
    if isinstance(present.get("items"), list):
        if schema.draft >= 2020 and schema.document.declared:
            raise schema.error("items must be a schema, and prefixItems a list of them, since 2020-12", "items")
        prefix = [forms.node(schema.child("items", i)) for i in range(len(present["items"]))]
        evaluated, more = len(prefix), "additionalItems"
    full: int | None = evaluated
    if more in present or (
        more == "additionalItems" and isinstance(present.get("items"), list) and more in schema.value
    ):
        rest, full = forms.node(schema.child(more)), None
    contains: tuple[Contains, ...] = ()
    passed: tuple[Node, ...] = ()
    if "contains" in present:
        node = forms.node(schema.child("contains"))
        passed = (node,) if schema.draft >= 2020 else ()
        minimum, maximum = count(present, "minContains", 1), count(present, "maxContains", None)
        if minimum or maximum is not None:
            contains = (Contains(0, node, minimum or 0, maximum, schema),)
    return ArrayShape(
        tuple(prefix),
        rest,
        count(present, "minItems", 0) or 0,
        count(present, "maxItems", None),
        contains,
        schema if present.get("uniqueItems") else None,
        full,
        passed,
    )


def _object(schema: Schema, present: Present, forms: Forms) -> Shape:
    properties = {}
    clauses: list[Clause] = []
    own: list[Names] = []
    if "properties" in present:
        properties = {name: forms.node(schema.child("properties", name)) for name in present["properties"]}
        own.append(Only(frozenset(properties)))
    for source in present.get("patternProperties", ()):
        for language in _pattern(schema, source, forms, "patternProperties"):
            matching = Matching(language)
            own.append(matching)
            clauses.append(Clause(matching, forms.node(schema.child("patternProperties", source)), schema))
    evaluated = tuple(own)
    if "additionalProperties" in present:
        node = forms.node(schema.child("additionalProperties"))
        evaluated = (Outside(),)
        if node:
            clauses.append(Clause(Outside(tuple(own)), node, schema))
    if "propertyNames" in present:
        clauses += _property_names(schema, forms)
    return ObjectShape(
        properties,
        frozenset(present.get("required", ())),
        tuple(clauses),
        (),
        count(present, "minProperties", 0) or 0,
        count(present, "maxProperties", None),
        evaluated if schema.document.tracks else (),
        schema,
    )


def _property_names(schema: Schema, forms: Forms) -> list[Clause]:
    node = forms.node(schema.child("propertyNames"))
    if not node:
        return []
    shapes = [shape for shape in forms.expand(node) if isinstance(shape, StringShape)]
    names: list[Names] = []
    for shape in shapes:
        if shape.values is not None:
            names.append(Only(shape.values))
        elif len(shape.inside) == 1 and not shape.outside and shape.minimum == 0 and shape.maximum is None:
            names.append(Matching(shape.inside[0]))
        else:
            names.append(Matching(Within(shape.minimum, shape.maximum, shape.inside, shape.outside)))
    return [Clause(Outside(tuple(names)), IMPOSSIBLE, schema)]


def count(present: Present, keyword: str, default: int | None) -> int | None:
    """The value of a keyword that counts; JSON may write it as 1.0. No output is so long that more than 2^31 matter."""
    value: int | float | Decimal | None = present.get(keyword)
    return default if value is None else min(int(value), 2**31 - 1)


_BUILDERS: dict[str, Callable[[Schema, Present, Forms], Shape]] = {
    "null": _null,
    "boolean": _boolean,
    "number": _number,
    "string": _string,
    "array": _array,
    "object": _object,
}
