"""Schemas in normal form: for a node, the list of shapes of its values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import applicators
from tokloom.grammar.json_schema.assertions import typed_shapes
from tokloom.grammar.json_schema.complement import complement, negated
from tokloom.grammar.json_schema.cover import without_covered
from tokloom.grammar.json_schema.document import Document, Schema
from tokloom.grammar.json_schema.intersect import intersect_all
from tokloom.grammar.json_schema.keywords import checks
from tokloom.grammar.json_schema.shapes import (
    ANYTHING,
    IMPOSSIBLE,
    ArrayShape,
    Literal,
    Node,
    NumberShape,
    ObjectShape,
    Shape,
    StringShape,
    Whole,
    all_shapes,
    both,
    has_name,
)

SHAPES = 2000
"""How many alternatives one schema may come to have."""

FEW = 8
"""Up to how many alternatives it is not worth while to look for superfluous ones."""

PAIRS = 200_000
"""How many pairs of alternatives are compared for a document, so that none takes more than seconds."""

AHEAD = 4
"""How deep looks ahead for empty nodes, each of which may need others, are nested."""


@dataclass(frozen=True)
class Unenforced:
    """A keyword that the grammar doesn't enforce: where it is, and why not."""

    pointer: str
    keyword: str
    reason: str


class _EndlessError(GrammarError):
    """A schema applies itself to the same value."""


class Forms:
    """The normal forms of a document's schemas, each worked out once.

    lenient: what can't be enforced is noted in `unenforced` instead of raised.
    formats: `format` is enforced.
    """

    def __init__(self, document: Document, *, lenient: bool, formats: bool) -> None:
        self.document, self.lenient, self.formats = document, lenient, formats
        self.unenforced: list[Unenforced] = []
        self._nodes: dict[int, Node] = {}
        self._known: dict[Node, list[Shape]] = {}
        self._literals: dict[Literal, list[Shape]] = {}
        self._active: set[Literal] = set()
        self._wholes: dict[Node, Whole] = {}
        self._simplified: dict[Node, Node] = {}
        self._pairs = 0  # compared so far
        self._ahead = 0  # how deep the looks ahead for empty nodes are nested

    # Nodes

    def node(self, schema: Schema) -> Node:
        """The node of one schema. A schema that only refers to another is that other one."""
        value = schema.value
        if value is True or value == {}:
            return ANYTHING
        if value is False:
            return IMPOSSIBLE
        if not isinstance(value, dict):
            raise schema.error(f"{value!r} is not a schema", hint="A schema is an object, true or false.")
        known = self._nodes.get(id(schema))
        if known is None:
            known = self._nodes[id(schema)] = self._follow(schema)
        return known

    def _follow(self, schema: Schema) -> Node:
        passed = {schema}
        while (target := self._alias(schema)) is not None:
            if target in passed:
                raise schema.error("this reference leads back to itself", "$ref")
            passed.add(target)
            schema = target
            if not isinstance(schema.value, dict):
                return self.node(schema)
        return frozenset({(schema, True)})

    def _alias(self, schema: Schema) -> Schema | None:
        value = schema.value
        if "$ref" not in value:
            return None
        if schema.draft > 7 and len(value) > 1:
            constrains = checks(schema.draft)
            if any(key in constrains for key in value if key != "$ref"):
                return None
        return self.document.resolve(schema, value["$ref"], "$ref")

    def negate(self, node: Node) -> Node:
        """The values that are not in the node."""
        return negated(node, self._wholes)

    # What can't be done

    def refuse(self, error: GrammarError, keyword: str) -> None:
        """Raises the error, or if lenient notes what is not enforced."""
        if not self.lenient:
            raise error
        self._note(Unenforced(error.where.removesuffix("/" + keyword), keyword, error.problem))

    def ignore(self, schema: Schema, keyword: str, reason: str) -> None:
        """Notes a keyword that says nothing, as the specification has it."""
        self._note(Unenforced(schema.pointer, keyword, reason))

    def _note(self, unenforced: Unenforced) -> None:
        if unenforced not in self.unenforced:
            self.unenforced.append(unenforced)

    # Shapes

    def expand(self, node: Node) -> list[Shape]:
        """The shapes of the node's values; none if there are no values. Not to be changed by the caller."""
        known = self._known.get(node)
        if known is not None:
            return known
        if not node:
            shapes = all_shapes()
        elif node is IMPOSSIBLE:
            shapes = []
        else:
            parts = self._parts(node)
            shapes = parts[0]
            for part in parts[1:]:
                shapes = self.common(shapes, part)
                if any(not positive for _, positive in node):
                    shapes = self.tidy(shapes)
        self._known[node] = shapes
        return shapes

    def _parts(self, node: Node) -> list[list[Shape]]:
        """Lists of shapes whose intersection is the node, the shortest first."""
        if len(node) > 2:  # chains of conditions grow by one at a time: what is known of all but one is a start
            for literal in node:
                known = self._known.get(node - {literal})
                if known is not None:
                    return [known, self._literal(literal)]
        return sorted((self._literal(literal) for literal in node), key=len)

    def common(self, left: list[Shape], right: list[Shape]) -> list[Shape]:
        """The shapes of the values that have a shape of each list, without those that plainly have no value."""
        self._pairs += len(left) * len(right)
        if self._pairs > PAIRS:
            raise self.too_large()
        shapes = intersect_all(left, right)
        if len(shapes) > max(FEW, len(left), len(right)):
            shapes = self.tidy(shapes)
        if len(shapes) > max(SHAPES, len(left), len(right)):
            raise self.too_large()
        return shapes

    def restart(self) -> None:
        """Counts anew what is compared."""
        self._pairs = 0

    def too_large(self) -> GrammarError:
        """The error for a schema that grows beyond bounds when its alternatives are written out."""
        return self.document.root.error(
            "the schema has too many alternatives when they are written out",
            hint="Fewer or simpler branches in anyOf, oneOf, not and if would help.",
        )

    def _literal(self, literal: Literal) -> list[Shape]:
        known = self._literals.get(literal)
        if known is not None:
            return known
        schema, positive = literal
        if literal in self._active:
            where = schema if isinstance(schema, Schema) else self.document.root
            raise _EndlessError(
                where.pointer, "this schema refers to itself without end", "No value could ever be checked by it."
            )
        self._active.add(literal)
        try:
            if not positive:
                whole = self.expand(schema.node) if isinstance(schema, Whole) else self._literal((schema, True))
                shapes = self._complement(whole)
            elif isinstance(schema, Whole):
                shapes = self.expand(schema.node)
            else:
                shapes = self._schema(schema)
        finally:
            self._active.discard(literal)
        self._literals[literal] = shapes
        return shapes

    def _complement(self, shapes: list[Shape]) -> list[Shape]:
        found: list[Shape] = []
        for whole in all_shapes():
            left = [whole]
            for shape in shapes:
                if shape.kind == whole.kind:
                    try:
                        other = complement(shape, self.negate)
                    except GrammarError as error:
                        self.refuse(error, "uniqueItems")
                        other = []
                    left = self.tidy(self.common(left, other))
            found += left
        return found

    def _schema(self, schema: Schema) -> list[Shape]:
        present = self.present(schema)
        if schema.draft <= 7 and "$ref" in present:
            present = {"$ref": present["$ref"]}
        return applicators.apply(schema, present, typed_shapes(schema, present, self), self)

    def present(self, schema: Schema) -> dict[str, Any]:
        """The keywords that constrain instances, checked. Raises GrammarError for a value that isn't valid."""
        constrains = checks(schema.draft)
        present = {}
        for keyword, value in schema.value.items():
            check = constrains.get(keyword)
            if check is not None:
                if not check[0](value):
                    raise schema.error(f"{keyword} must be {check[1]}, not {_shown(value)}", keyword)
                present[keyword] = value
        return present

    # What is plainly empty

    def pruned(self, shapes: list[Shape]) -> list[Shape]:
        """Without the shapes that plainly have no value."""
        return [shape for shape in shapes if not self.is_empty_shape(shape)]

    def tidy(self, shapes: list[Shape]) -> list[Shape]:
        """The same values in fewer and simpler shapes: for what complements leave behind."""
        found: list[Shape] = []
        for shape in shapes:
            if isinstance(shape, ObjectShape) and any(len(node) > 1 for node in shape.properties.values()):
                properties = {name: self.simplified(node) for name, node in shape.properties.items()}
                shape = replace(shape, properties=properties)
            if not self.is_empty_shape(shape):
                found.append(shape)
        return without_covered(found)

    def simplified(self, node: Node) -> Node:
        """The node without the negated schemas that have nothing in common with the others anyway."""
        if len(node) < 2:
            return node
        known = self._simplified.get(node)
        if known is None:
            wanted = frozenset(literal for literal in node if literal[1])
            known = wanted
            if wanted:
                others = [(literal, both(wanted, frozenset({(literal[0], True)}))) for literal in node - wanted]
                left = [literal for literal, common in others if not self.is_empty(common)]
                known |= set(left)
                for literal in left if 1 < len(left) <= FEW else ():
                    rest = known - {literal}
                    if self.is_empty(both(rest, frozenset({(literal[0], True)}))):
                        known = rest
            else:
                known = node
            self._simplified[node] = known
        return known

    def is_empty(self, node: Node, depth: int = 2) -> bool:
        """Whether it is certain that the node has no values; looks down by `depth` levels."""
        if node is IMPOSSIBLE:
            return True
        if depth == 0 or not node or self._ahead == AHEAD:
            return False
        self._ahead += 1
        try:
            return all(self.is_empty_shape(shape, depth - 1) for shape in self.expand(node))
        except _EndlessError:  # what is being worked out right now has a property of this node: nothing is certain yet
            return False
        finally:
            self._ahead -= 1

    def is_empty_shape(self, shape: Shape, depth: int = 2) -> bool:
        """Whether it is certain that no value has the shape."""
        match shape:
            case ObjectShape():
                return any(self.is_empty(self.property_node(shape, name), depth) for name in shape.required)
            case ArrayShape(prefix, rest, minimum):
                nodes = [*prefix[:minimum], *([rest] if minimum > len(prefix) else [])]
                return any(self.is_empty(node, depth) for node in nodes)
            case NumberShape(integer=True, low=low, high=high) if low is not None and high is not None:
                first = ceil(low[0]) if low[1] else floor(low[0]) + 1
                last = floor(high[0]) if high[1] else ceil(high[0]) - 1
                return first > last
            case StringShape(minimum=minimum, maximum=maximum) if maximum is not None:
                return minimum > maximum
        return False

    def property_node(self, shape: ObjectShape, name: str) -> Node:
        """What the value of a property must be, by its name and by all clauses that have it."""
        node = shape.properties.get(name, ANYTHING)
        for clause in shape.clauses:
            if has_name(clause.names, name):
                node = both(node, clause.node)
        return node


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) < 60 else shown[:57] + "..."
