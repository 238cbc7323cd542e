"""From normal forms to rules of a grammar: a node becomes an expression, an array or object a rule."""

from __future__ import annotations

from typing import Literal as Choice

from tokloom.errors import ArgumentError
from tokloom.grammar.expression import NOTHING, Either, Expression, Literal, Ref
from tokloom.grammar.json_schema.arrays import array_body
from tokloom.grammar.json_schema.document import Schema
from tokloom.grammar.json_schema.languages import Within
from tokloom.grammar.json_schema.layout import (
    BOOLEAN,
    DEPTH,
    INTEGER_NUMERAL,
    NULL,
    NUMERAL,
    PLAIN_INTEGER_NUMERAL,
    STRING,
    Layout,
    quoted,
)
from tokloom.grammar.json_schema.normal import Forms
from tokloom.grammar.json_schema.numerals import numeral
from tokloom.grammar.json_schema.objects import object_body
from tokloom.grammar.json_schema.shapes import (
    IMPOSSIBLE,
    ArrayShape,
    BooleanShape,
    Node,
    NullShape,
    NumberShape,
    ObjectShape,
    Shape,
    StringShape,
)
from tokloom.grammar.json_schema.spelling import spell_text

NODES = 3000
"""How many sets of schemas together a grammar may have; single ones are as many as the document has."""

Order = Choice["any", "schema"]

_SIMPLE: dict[str, Expression] = {
    "string": STRING,
    "number": NUMERAL,
    "boolean": BOOLEAN,
    "null": NULL,
}


class Compiler:
    """Makes the expressions of nodes, each once, and collects the rules."""

    def __init__(self, forms: Forms, layout: Layout, order: Order) -> None:
        if order not in ("any", "schema"):
            raise ArgumentError("property_order", order, '"any" or "schema"')
        self.forms, self.layout, self.order = forms, layout, order
        self.rules = layout.rules
        self.recursive = False
        self._together = 0
        self._known: dict[tuple[Node, int], Expression] = {}
        self._active: dict[tuple[Node, int], str | None] = {}

    def value(self, node: Node, depth: int) -> Expression:
        """The texts of the node's values; NOTHING if there are none."""
        if not node:
            return self.layout.value(depth)
        if node is IMPOSSIBLE:
            return NOTHING
        node = self.forms.simplified(node)
        key = (node, self.layout.level(depth))
        known = self._known.get(key)
        if known is not None:
            if not isinstance(known, (Ref, Literal)) and known not in (BOOLEAN, NOTHING):
                name = self.name(node, depth)  # used again: shared as a rule, lest whoever walks it does so twice
                self.rules[name] = known
                known = self._known[key] = Ref(name)
            return known
        if key in self._active:
            self.recursive = True
            taken = self._active[key]
            if taken is None:
                taken = self._active[key] = self.name(node, depth)
            return Ref(taken)
        simple = self._simple(node)
        self._together += len(node) > 1
        if self._together > NODES:
            raise self.forms.too_large()
        if simple is None:
            self._active[key] = None
            ways = [self.shape(shape, depth) for shape in self.forms.expand(node)]
            kept = tuple(way for way in ways if way != NOTHING)
            simple = kept[0] if len(kept) == 1 else Either(kept)
            taken = self._active.pop(key)
            if taken is not None:
                self.rules[taken] = simple
                simple = Ref(taken)
        self._known[key] = simple
        return simple

    def _simple(self, node: Node) -> Expression | None:
        """A schema that names one scalar type and no more: most of them do."""
        if len(node) > 1:
            return None
        ((schema, positive),) = node
        if not positive or not isinstance(schema, Schema):
            return None
        present = self.forms.present(schema)
        if len(present) != 1 or "type" not in present:
            return None
        kind = present["type"]
        if kind == "integer":
            return PLAIN_INTEGER_NUMERAL if schema.draft == 4 else INTEGER_NUMERAL
        return _SIMPLE.get(kind) if isinstance(kind, str) else None

    def name(self, node: Node, depth: int) -> str:
        """A name for a rule that nobody has: the pointer of its schema, if there is one."""
        wanted = "#"
        for schema, _ in node:
            if isinstance(schema, Schema):
                wanted = schema.pointer
                break
        level = self.layout.level(depth)
        if level:
            wanted = f"{wanted} at {level}"
        name, number = wanted, 1
        while name in self.rules or name in self._active.values():
            number += 1
            name = f"{wanted} {number}"
        return name

    def shape(self, shape: Shape, depth: int) -> Expression:
        """The texts of one shape's values."""
        match shape:
            case NullShape():
                return NULL
            case BooleanShape(values):
                return BOOLEAN if len(values) == 2 else Literal(b"true" if True in values else b"false")
            case NumberShape():
                return self._number(shape)
            case StringShape():
                return self._string(shape)
            case ArrayShape():
                return NOTHING if self._too_deep(depth) else array_body(shape, depth, self)
            case ObjectShape():
                return NOTHING if self._too_deep(depth) else object_body(shape, depth, self)

    def _too_deep(self, depth: int) -> bool:
        return self.layout.indent is not None and depth > DEPTH

    def _number(self, shape: NumberShape) -> Expression:
        try:
            return numeral(shape)
        except OverflowError as error:
            if shape.origin is None:
                raise
            self.forms.refuse(shape.origin.error(str(error), "multipleOf"), "multipleOf")
            return numeral(NumberShape(shape.integer, shape.plain, shape.low, shape.high))

    def _string(self, shape: StringShape) -> Expression:
        if shape.maximum is not None and shape.minimum > shape.maximum:
            return NOTHING
        if shape.values is not None:
            ways = tuple(quoted(spell_text(value)) for value in sorted(shape.values))
            return ways[0] if len(ways) == 1 else Either(ways)
        if not shape.inside and not shape.outside and shape.minimum == 0 and shape.maximum is None:
            return STRING
        return quoted(Within(shape.minimum, shape.maximum, shape.inside, shape.outside).spelled())
