"""The keywords that apply other schemas to the same value, and enum and const."""

from __future__ import annotations

from decimal import Decimal
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

from tokloom.errors import GrammarError
from tokloom.grammar.json_schema.assertions import Present
from tokloom.grammar.json_schema.document import Schema
from tokloom.grammar.json_schema.keywords import checks
from tokloom.grammar.json_schema.numerals import exact
from tokloom.grammar.json_schema.shapes import (
    ANYTHING,
    IMPOSSIBLE,
    ArrayShape,
    BooleanShape,
    Clause,
    Node,
    NullShape,
    NumberShape,
    ObjectShape,
    Only,
    Outside,
    Shape,
    StringShape,
    all_shapes,
    both,
)

if TYPE_CHECKING:
    from tokloom.grammar.json_schema.normal import Forms

_BRANCHES = 5
"""How many branches of an anyOf are tried in all combinations, where what they evaluate matters."""

Constant: TypeAlias = tuple[str, Any]
"""A value with the name of its type."""

_HANDLED = (
    "enum const $ref $dynamicRef $recursiveRef allOf anyOf oneOf not if dependencies dependentSchemas"
    " dependentRequired unevaluatedProperties unevaluatedItems"
).split()


def apply(schema: Schema, present: Present, shapes: list[Shape], forms: Forms) -> list[Shape]:
    """The shapes of those values that the in-place keywords allow too."""
    if not any(keyword in present for keyword in _HANDLED):
        return shapes
    if "enum" in present:
        shapes = forms.common(shapes, _values(schema, present["enum"], "enum", forms))
    if "const" in present:
        shapes = forms.common(shapes, _values(schema, [present["const"]], "const", forms))
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword in present:
            target = forms.document.resolve(schema, present[keyword], keyword)
            shapes = forms.common(shapes, forms.expand(forms.node(target)))
    for index in range(len(present.get("allOf", ()))):
        shapes = forms.common(shapes, forms.expand(forms.node(schema.child("allOf", index))))
    if "anyOf" in present:
        shapes = forms.common(shapes, _any_of(schema, present, forms))
    if "oneOf" in present:
        shapes = forms.common(shapes, _one_of(schema, present, forms))
    if "not" in present:
        node = forms.negate(forms.node(schema.child("not")))
        shapes = forms.tidy(forms.common(shapes, forms.expand(node)))
    if "if" in present:
        shapes = forms.tidy(forms.common(shapes, _if(schema, present, forms)))
    for keyword in ("dependencies", "dependentSchemas", "dependentRequired"):
        for name in present.get(keyword, ()):
            shapes = forms.common(shapes, _dependent(schema, keyword, name, present[keyword][name], forms))
    if "unevaluatedProperties" in present:
        shapes = _unevaluated_properties(schema, shapes, forms)
    if "unevaluatedItems" in present:
        shapes = _unevaluated_items(schema, shapes, forms)
    return shapes


def _values(schema: Schema, values: list[Any], keyword: str, forms: Forms) -> list[Shape]:
    """The shapes of given values, compared as JSON compares them."""
    strings: set[str] = set()
    booleans: set[bool] = set()
    found: list[Shape] = []
    numbers = set()
    for index, value in enumerate(values):
        if isinstance(value, str):
            strings.add(value)
        elif isinstance(value, bool):
            booleans.add(value)
        elif isinstance(value, (int, float, Decimal)):
            numbers.add(exact(value))
        elif value is None:
            found.append(NullShape())
        elif isinstance(value, list):
            items = tuple(_value_node(schema, each, forms, keyword, index, i) for i, each in enumerate(value))
            found.append(ArrayShape(items, IMPOSSIBLE, len(items), len(items), evaluated=0))
        else:
            nodes = {name: _value_node(schema, each, forms, keyword, index, name) for name, each in value.items()}
            closed = Clause(Outside((Only(frozenset(nodes)),)), IMPOSSIBLE, schema)
            found.append(ObjectShape(nodes, frozenset(nodes), (closed,)))
    if strings:
        found.append(StringShape(values=frozenset(strings)))
    if booleans:
        found.append(BooleanShape(frozenset(booleans)))
    found += [NumberShape(low=(number, True), high=(number, True)) for number in sorted(numbers)]
    return found


def _value_node(schema: Schema, value: Any, forms: Forms, *place: str | int) -> Node:
    return forms.node(schema.made({"enum": [value]}, *place))


def _any_of(schema: Schema, present: Present, forms: Forms) -> list[Shape]:
    parts = [forms.expand(forms.node(schema.child("anyOf", index))) for index in range(len(present["anyOf"]))]
    found = [shape for part in parts for shape in part]
    if forms.document.tracks and len(parts) > 1:
        if len(parts) > _BRANCHES:
            problem = f"more than {_BRANCHES} branches, with unevaluated keywords in the document, are too many"
            forms.refuse(schema.error(problem, "anyOf"), "anyOf")
            return found
        # Where several branches hold, what any of them evaluates is evaluated.
        for size in range(2, len(parts) + 1):
            for chosen in combinations(parts, size):
                shapes = chosen[0]
                for part in chosen[1:]:
                    shapes = forms.common(shapes, part)
                found += shapes
    return found


def _one_of(schema: Schema, present: Present, forms: Forms) -> list[Shape]:
    nodes = [forms.node(schema.child("oneOf", index)) for index in range(len(present["oneOf"]))]
    parts = [forms.pruned(forms.expand(node)) for node in nodes]
    try:
        return _exactly_one(nodes, parts, forms)
    except GrammarError:
        if not forms.lenient:
            raise
    forms.refuse(schema.error("its branches overlap in too many ways: one or more of them hold", "oneOf"), "oneOf")
    forms.restart()
    return [shape for part in parts for shape in part]


def _exactly_one(nodes: list[Node], parts: list[list[Shape]], forms: Forms) -> list[Shape]:
    meeting: list[list[int]] = [[] for _ in nodes]
    for left, right in _may_meet(parts):
        if forms.pruned(forms.common(parts[left], parts[right])):
            meeting[left].append(right)
            meeting[right].append(left)
    found: list[Shape] = []
    for index, part in enumerate(parts):
        shapes = part
        for other in meeting[index]:
            shapes = forms.tidy(forms.common(shapes, forms.expand(forms.negate(nodes[other]))))
        found += shapes
    return found


def _may_meet(parts: list[list[Shape]]) -> list[tuple[int, int]]:
    """The pairs of lists of shapes that may have a value in common, in order: not those that differ in a constant.

    So the number of pairs stays small where branches are constants, or objects with a tag that tells them apart.
    """
    tag = _tag(parts)
    holders: dict[Constant, list[int]] = {}
    listed: dict[int, set[Constant]] = {}
    for index, part in enumerate(parts):
        constants: set[Constant] | None = set()
        for shape in part:
            these = _constants(shape, tag)
            constants = None if these is None or constants is None else constants | these
        if constants is not None:
            listed[index] = constants
            for constant in constants:
                holders.setdefault(constant, []).append(index)
    kinds = [{shape.kind for shape in part} for part in parts]
    pairs = {pair for indices in holders.values() for pair in combinations(indices, 2)}
    for index in range(len(parts)):
        if index not in listed:
            others = (other for other in range(len(parts)) if other != index and kinds[index] & kinds[other])
            pairs |= {(min(index, other), max(index, other)) for other in others}
    return sorted(pairs)


def _tag(parts: list[list[Shape]]) -> str | None:
    """The name of the property that is a constant in most of the objects, if there is one."""
    found: dict[str, int] = {}
    for part in parts:
        for shape in part:
            if isinstance(shape, ObjectShape):
                for name in shape.required:
                    if _constants_of(shape.properties.get(name, ANYTHING)) is not None:
                        found[name] = found.get(name, 0) + 1
    return max(sorted(found), key=found.__getitem__) if found else None


def _constants(shape: Shape, tag: str | None) -> set[Constant] | None:
    """Constants such that shapes without a common one have no value in common; None if none are known."""
    match shape:
        case NullShape():
            return {("null", None)}
        case BooleanShape(values):
            return {("boolean", value) for value in values}
        case StringShape(values=values) if values is not None:
            return {("string", value) for value in values}
        case NumberShape(low=low, high=high) if low is not None and low == high:
            return {("number", low[0])}
        case ObjectShape(properties, required) if tag is not None and tag in required:
            tags = _constants_of(properties.get(tag, ANYTHING))
            return None if tags is None else {("object", each) for each in tags}
    return None


def _constants_of(node: Node) -> set[Constant] | None:
    """The constants that a const or enum of the node lists, if it lists no arrays and objects."""
    for schema, positive in node:
        if not positive or not isinstance(schema, Schema) or not isinstance(schema.value, dict):
            continue
        constrains = checks(schema.draft)
        values = schema.value.get("enum")
        if "const" in constrains and "const" in schema.value:
            values = [schema.value["const"]]
        if isinstance(values, list) and not any(isinstance(value, (list, dict)) for value in values):
            return {_constant(value) for value in values}
    return None


def _constant(value: Any) -> Constant:
    """A value as JSON compares it: 1 is 1.0, and true is no number."""
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return "number", exact(value)
    return type(value).__name__, value


def _if(schema: Schema, present: Present, forms: Forms) -> list[Shape]:
    condition = forms.node(schema.child("if"))
    then = forms.node(schema.child("then")) if "then" in present else ANYTHING
    other = forms.node(schema.child("else")) if "else" in present else ANYTHING
    if not then and not other and not forms.document.tracks:
        return all_shapes()
    met = forms.common(forms.expand(condition), forms.expand(then)) if then else forms.expand(condition)
    not_met = forms.negate(condition)
    unmet = forms.common(forms.expand(not_met), forms.expand(other)) if other else forms.expand(not_met)
    return [*met, *unmet]


def _dependent(schema: Schema, keyword: str, name: str, dependent: Any, forms: Forms) -> list[Shape]:
    """What a property asks for when it is there."""
    others = [shape for shape in all_shapes() if not isinstance(shape, ObjectShape)]
    without = ObjectShape({name: IMPOSSIBLE})
    if isinstance(dependent, list):
        return [*others, without, ObjectShape({}, frozenset({name, *dependent}))]
    having: list[Shape] = [ObjectShape({}, frozenset({name}))]
    node = forms.node(schema.child(keyword, name))
    return [*others, without, *forms.common(having, forms.expand(node))]


def _unevaluated_properties(schema: Schema, shapes: list[Shape], forms: Forms) -> list[Shape]:
    node = forms.node(schema.child("unevaluatedProperties"))
    found: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, ObjectShape):
            clause = Clause(Outside(shape.evaluated), node, schema)
            shape = ObjectShape(
                shape.properties, shape.required, (*shape.clauses, clause), shape.demands, shape.minimum, shape.maximum,
                (Outside(),), shape.origin,
            )  # fmt: skip
        found.append(shape)
    return found


def _unevaluated_items(schema: Schema, shapes: list[Shape], forms: Forms) -> list[Shape]:
    node = forms.node(schema.child("unevaluatedItems"))
    found: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, ArrayShape) and shape.evaluated is not None:
            mine = node
            if shape.passed and node:
                # Items in one of the nodes that pass, or else in `node`: not outside of all of them.
                outside = forms.negate(node)
                for each in shape.passed:
                    outside = both(outside, forms.negate(each))
                mine = forms.negate(outside)
            size = max(shape.evaluated, len(shape.prefix))
            prefix = [*shape.prefix, *[shape.rest] * (size - len(shape.prefix))]
            for index in range(shape.evaluated, size):
                prefix[index] = both(prefix[index], mine)
            shape = ArrayShape(
                tuple(prefix), both(shape.rest, mine), shape.minimum, shape.maximum, shape.contains, shape.unique, None
            )
        found.append(shape)
    return found
