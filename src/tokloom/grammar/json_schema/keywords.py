"""The keywords of JSON Schema: in which drafts, what their values must be, and how far they are enforced.

This is the one list of them: the front end checks schemas by it, and the documentation prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


@dataclass(frozen=True)
class Keyword:
    """A keyword of JSON Schema.

    since, until: the first and last draft that has it. group: where the documentation lists it.
    value: what its value must be, by a name in `CHECKS`; None for keywords that say nothing about instances.
    limits: what of it is refused, or bounded; "" if it is enforced in full.
    """

    name: str
    group: str
    value: str | None
    since: int = 4
    until: int = 2020
    limits: str = ""


_HUGE = 10**2000
"""Numbers are handled exactly, digit by digit, so that there must be an end to them."""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _count(value: Any) -> bool:
    return _number(value) and value >= 0 and value == int(value)


def _schema(value: Any) -> bool:
    return isinstance(value, (dict, bool))


def _list(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _map(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _type(value: Any) -> bool:
    return value in TYPES if isinstance(value, str) else isinstance(value, list) and all(_type(each) for each in value)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "a type or a list of types": _type,
    "a list": lambda value: isinstance(value, list),
    "any value": lambda value: True,
    "a number": _number,
    "a number or a boolean": lambda value: isinstance(value, bool) or _number(value),
    "a number above zero": lambda value: _number(value) and value > 0,
    "a count": _count,
    "a string": _string,
    "a boolean": lambda value: isinstance(value, bool),
    "a schema": _schema,
    "a schema or a list of schemas": lambda value: _schema(value) or _list(_schema)(value),
    "a list of schemas": lambda value: _list(_schema)(value) and bool(value),
    "an object of schemas": _map(_schema),
    "a list of strings": _list(_string),
    "an object of lists of strings": _map(_list(_string)),
    "an object of schemas or lists of strings": _map(lambda value: _schema(value) or _list(_string)(value)),
}

_REGULAR = "Regular expressions of ECMA-262; backreferences and lookaround inside of loops are refused."
_OPPOSITE = "The opposite of uniqueItems and demands on some unnamed property are refused."
_MANY = " So are schemas that come to have thousands of alternatives when written out."

KEYWORDS: tuple[Keyword, ...] = (
    Keyword("type", "any value", "a type or a list of types"),
    Keyword("enum", "any value", "a list"),
    Keyword("const", "any value", "any value", since=6),
    Keyword("minimum", "numbers", "a number"),
    Keyword("maximum", "numbers", "a number"),
    Keyword("exclusiveMinimum", "numbers", "a number or a boolean"),
    Keyword("exclusiveMaximum", "numbers", "a number or a boolean"),
    Keyword(
        "multipleOf",
        "numbers",
        "a number above zero",
        limits="Refused where the multiple, without its factors 2 and 5, is above 10,000 or so.",
    ),
    Keyword("minLength", "strings", "a count"),
    Keyword("maxLength", "strings", "a count"),
    Keyword("pattern", "strings", "a string", limits=_REGULAR),
    Keyword(
        "format", "strings", "a string", limits="The formats below; others say nothing, as the specification has it."
    ),
    Keyword("items", "arrays", "a schema or a list of schemas"),
    Keyword("prefixItems", "arrays", "a list of schemas", since=2020),
    Keyword("additionalItems", "arrays", "a schema", until=2019),
    Keyword("minItems", "arrays", "a count"),
    Keyword("maxItems", "arrays", "a count"),
    Keyword(
        "uniqueItems",
        "arrays",
        "a boolean",
        limits="Where the items are out of a list of values, can't be equal, or are at most one; else refused.",
    ),
    Keyword("contains", "arrays", "a schema", since=6, limits="Refused where more than 500 counts are to be kept."),
    Keyword("minContains", "arrays", "a count", since=2019),
    Keyword("maxContains", "arrays", "a count", since=2019),
    Keyword("unevaluatedItems", "arrays", "a schema", since=2019),
    Keyword("properties", "objects", "an object of schemas"),
    Keyword("required", "objects", "a list of strings"),
    Keyword("additionalProperties", "objects", "a schema"),
    Keyword("patternProperties", "objects", "an object of schemas", limits=_REGULAR),
    Keyword("propertyNames", "objects", "a schema", since=6),
    Keyword(
        "minProperties",
        "objects",
        "a count",
        limits="Refused where two or more of the properties may have names that the schema doesn't give.",
    ),
    Keyword("maxProperties", "objects", "a count"),
    Keyword("dependentRequired", "objects", "an object of lists of strings", since=2019),
    Keyword("dependentSchemas", "objects", "an object of schemas", since=2019),
    Keyword("dependencies", "objects", "an object of schemas or lists of strings"),
    Keyword("unevaluatedProperties", "objects", "a schema", since=2019),
    Keyword("allOf", "combinations", "a list of schemas"),
    Keyword("anyOf", "combinations", "a list of schemas"),
    Keyword("oneOf", "combinations", "a list of schemas", limits=_OPPOSITE + _MANY),
    Keyword("not", "combinations", "a schema", limits=_OPPOSITE + _MANY),
    Keyword("if", "combinations", "a schema", since=7, limits=_OPPOSITE + _MANY),
    Keyword("then", "combinations", "a schema", since=7),
    Keyword("else", "combinations", "a schema", since=7),
    Keyword("$ref", "references", "a string", limits="Other documents only if handed over as `resources`."),
    Keyword("$dynamicRef", "references", "a string", since=2020),
    Keyword("$recursiveRef", "references", "a string", since=2019, until=2019),
    Keyword("$id", "references", None, since=6),
    Keyword("id", "references", None, until=4),
    Keyword("$anchor", "references", None, since=2019),
    Keyword("$dynamicAnchor", "references", None, since=2020),
    Keyword("$recursiveAnchor", "references", None, since=2019, until=2019),
    Keyword("$defs", "references", None),
    Keyword("definitions", "references", None),
    Keyword("$schema", "annotations", None),
    Keyword("$vocabulary", "annotations", None, since=2019),
    Keyword("$comment", "annotations", None),
    Keyword("title", "annotations", None),
    Keyword("description", "annotations", None),
    Keyword("default", "annotations", None),
    Keyword("examples", "annotations", None),
    Keyword("deprecated", "annotations", None),
    Keyword("readOnly", "annotations", None),
    Keyword("writeOnly", "annotations", None),
    Keyword("contentEncoding", "annotations", None),
    Keyword("contentMediaType", "annotations", None),
    Keyword("contentSchema", "annotations", None),
)


@cache
def checks(draft: int) -> dict[str, tuple[Callable[[Any], bool], str]]:
    """For each keyword of the draft that constrains instances the check of its value, and what it must be."""
    return {
        each.name: (CHECKS[each.value], each.value)
        for each in KEYWORDS
        if each.value is not None and each.since <= draft <= each.until
    }
