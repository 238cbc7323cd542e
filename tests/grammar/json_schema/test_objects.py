"""Objects: properties in any order and in that of the schema, names, numbers of properties, what they ask for."""

import itertools

import pytest

from tests.grammar import naive
from tests.grammar.json_schema.texts import accepts, sort
from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import from_json_schema, translate

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "id": {"type": "null"}},
    "required": ["name", "id"],
    "additionalProperties": False,
}


def test_properties_come_in_any_order_each_once():
    pairs = {'"name": "x"': True, '"age": 1': False, '"id": null': True}
    for count in range(4):
        for chosen in itertools.permutations(pairs, count):
            complete = all(pair in chosen for pair, required in pairs.items() if required)
            assert accepts(PERSON, "{" + ", ".join(chosen) + "}") == complete
    assert not accepts(PERSON, '{"name": "x", "id": null, "name": "y"}')
    assert not accepts(PERSON, '{"name": "x", "id": null, "other": 1}')


def test_properties_in_the_order_of_the_schema():
    texts = {
        '{"name": "x", "age": 1, "id": null}': True,
        '{"name": "x", "id": null}': True,
        '{"id": null, "name": "x"}': False,
        '{"name": "x", "age": 1}': False,
        "{}": False,
    }
    assert {text: accepts(PERSON, text, property_order="schema") for text in texts} == texts
    open_ = {**PERSON, "required": ["age"], "additionalProperties": {"type": "boolean"}}
    assert accepts(open_, '{"age": 1, "x": true, "y": false}', property_order="schema")
    assert accepts(open_, '{"name": "", "age": 1}', property_order="schema")
    assert not accepts(open_, '{"x": true, "age": 1}', property_order="schema")
    assert not accepts(open_, '{"age": 1, "name": true}', property_order="schema")


@pytest.mark.parametrize("order", ["any", "schema"])
@pytest.mark.parametrize(("minimum", "maximum"), [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 9)])
def test_numbers_of_properties(order, minimum, maximum):
    names = ["a", "b", "c"]
    for required in ([], ["b"]):
        schema = {
            "type": "object", "properties": {name: {"type": "null"} for name in names}, "required": required,
            "minProperties": minimum, "maxProperties": maximum, "additionalProperties": False,
        }  # fmt: skip
        try:
            grammar = from_json_schema(schema, property_order=order, whitespace="compact")
        except GrammarError:
            grammar = None
        for count in range(4):
            for chosen in itertools.combinations(names, count):
                text = "{" + ",".join(f'"{name}":null' for name in chosen) + "}"
                valid = minimum <= count <= maximum and set(required) <= set(chosen)
                assert (grammar is not None and naive.matches(grammar, text.encode())) == valid


@pytest.mark.parametrize("order", ["any", "schema"])
def test_numbers_of_properties_without_names(order):
    schema = {"type": "object", "properties": {"a": {}}, "required": ["a"], "minProperties": 2, "maxProperties": 3}
    texts = ['{"a":1}', '{"a":1,"x":1}', '{"a":1,"x":1,"y":2}', '{"a":1,"x":1,"y":2,"z":3}', '{"x":1,"y":2}']
    assert [accepts(schema, text, property_order=order) for text in texts] == [False, True, True, False, False]
    with pytest.raises(GrammarError, match="minProperties") as caught:
        from_json_schema({"type": "object", "minProperties": 2}, property_order=order)
    assert caught.value.where == "#/minProperties"


def test_required_without_properties():
    assert sort({"type": "object", "required": ["x"]}, [{}, {"x": 1}, {"y": 2, "x": []}, {"y": 1}]) == [
        {"x": 1},
        {"y": 2, "x": []},
    ]


def test_additional_properties_have_other_names():
    schema = {"properties": {"a": {"type": "integer"}, 'q"\n': {}}, "additionalProperties": {"type": "string"}}
    values = [{"a": 1}, {"a": "x"}, {"b": "x"}, {"b": 1}, {"ab": "x", "a": 2}, {"": ""}, {'q"\n': 5}, {'q"': 5}]
    assert sort(schema, values) == [{"a": 1}, {"b": "x"}, {"ab": "x", "a": 2}, {"": ""}, {'q"\n': 5}]


def test_names_of_any_characters_are_told_apart():
    schema = {"properties": {"é": {"type": "null"}, "😀": {"type": "null"}}, "additionalProperties": False}
    assert sort(schema, [{"é": None}, {"😀": None, "é": None}, {"e": None}]) == [{"é": None}, {"😀": None, "é": None}]
    other = {"properties": {"é": {"type": "null"}}, "additionalProperties": {"type": "integer"}}
    assert sort(other, [{"é": 1}, {"è": 1}, {"é": None}]) == [{"è": 1}, {"é": None}]


def test_pattern_properties_meet():
    schema = {
        "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 5}},
        "properties": {"ab": {"multipleOf": 2}},
        "additionalProperties": False,
    }
    values = [{"a": 1}, {"a": "x"}, {"b": 4}, {"b": "x"}, {"axb": 4}, {"axb": 6}, {"ab": 7}, {"ab": 8}, {"c": 1}, {}]
    assert sort(schema, values) == [{"a": 1}, {"b": "x"}, {"axb": 6}, {"ab": 8}, {}]


def test_too_many_overlapping_patterns_are_refused():
    schema = {"patternProperties": {f"{i}": {"type": "integer", "minimum": i} for i in range(8)}}
    with pytest.raises(GrammarError, match="overlap"):
        from_json_schema(schema)
    apart = {"patternProperties": {f"^{chr(97 + i)}": {"const": i} for i in range(20)}, "additionalProperties": False}
    assert sort(apart, [{"ax": 0, "cx": 2}, {"ax": 2}, {"z": 1}]) == [{"ax": 0, "cx": 2}]


def test_property_names():
    values = [{}, {"a": 1}, {"ab": 1}, {"b": 1}, {"abc": 1}]
    assert sort({"type": "object", "propertyNames": {"pattern": "^a", "maxLength": 2}}, values) == values[:3]
    assert sort({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, values) == [{}, {"a": 1}, {"b": 1}]
    assert sort({"type": "object", "propertyNames": {"not": {"const": "a"}}}, values) == [{}, *values[2:]]
    assert sort({"type": "object", "propertyNames": False}, values) == [{}]
    with pytest.raises(GrammarError, match="no value"):
        from_json_schema({"type": "object", "required": ["b"], "propertyNames": {"pattern": "^a"}})


def test_dependencies():
    schema = {
        "type": "object",
        "dependentRequired": {"card": ["address"]},
        "dependentSchemas": {"address": {"properties": {"zip": {"type": "integer"}}, "required": ["zip"]}},
    }
    values = [{}, {"card": 1}, {"card": 1, "address": 1}, {"card": 1, "address": 1, "zip": 1}, {"zip": "x"}]
    assert sort(schema, values) == [values[0], values[3], values[4]]
    old = {"type": "object", "dependencies": {"a": ["b"], "b": {"required": ["c"]}}}
    assert sort(old, [{"a": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}], draft=7) == [{"a": 1, "b": 1, "c": 1}]


def test_unevaluated_properties_see_what_held():
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}},
        "required": ["kind"],
        "anyOf": [
            {"properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}},
            {"properties": {"kind": {"const": "b"}, "y": {"type": "integer"}}},
        ],
        "unevaluatedProperties": False,
    }
    values = [{"kind": "a", "x": 1}, {"kind": "a", "y": 1}, {"kind": "b", "y": 1}, {"kind": "b"}, {"kind": "b", "z": 1}]
    assert sort(schema, values) == [values[0], values[2], values[3]]


def test_lenient_counts_what_it_can():
    translation = translate({"type": "object", "minProperties": 3}, lenient=True)
    assert [(each.pointer, each.keyword) for each in translation.unenforced] == [("#", "minProperties")]
    assert naive.matches(translation.grammar, b'{"a": 1, "b": 2, "c": 3}')
    assert not naive.matches(translation.grammar, b'{"a": 1}')
