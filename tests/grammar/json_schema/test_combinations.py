"""anyOf, oneOf, allOf, not, if, enum and const; references."""

import json

import pytest

from tests.grammar import naive
from tests.grammar.json_schema.texts import accepts, sort
from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import from_json_schema, translate

VALUES = [None, True, 0, 1, 2, 2.5, "", "a", "ab", [], [1], {}, {"a": 1}, {"a": "x", "b": 2}]


def test_enum_and_const_compare_as_json():
    schema = {"enum": [1.0, "a", None, [1, {"x": [], "y": True}], {}]}
    assert accepts(schema, "1")
    assert accepts(schema, "1.0")
    assert not accepts(schema, "true")
    assert accepts(schema, '[1, {"y": true, "x": []}]')
    assert not accepts(schema, '[1, {"y": true}]')
    assert sort(schema, VALUES) == [None, 1, "a", {}]
    assert sort({"const": False}, [0, False, None]) == [False]
    mixed = {"enum": [1, 5, "a", "bcd"], "type": ["integer", "string"], "minimum": 2, "maxLength": 1}
    assert sort(mixed, [1, 5, "a", "bcd"]) == [5, "a"]


def test_all_of_meets():
    schema = {
        "allOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 3}, "b": {"type": "string"}}, "additionalProperties": False},
        ],
        "type": "object",
    }
    values = [{"a": 3}, {"a": 2}, {"a": "x"}, {"a": 5, "b": ""}, {"a": 5, "c": 1}, {"b": ""}]
    assert sort(schema, values) == [{"a": 3}, {"a": 5, "b": ""}]


def test_any_of_beside_other_keywords():
    schema = {"type": "integer", "minimum": 0, "anyOf": [{"maximum": 1}, {"minimum": 3}]}
    assert sort(schema, [-1, 0, 1, 2, 3, "a"]) == [0, 1, 3]


def test_one_of_is_exactly_one():
    assert sort({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2, 2.5, 1.5, 5]) == [1, 2.5]
    overlap = {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 1, "pattern": "^a"}]}
    assert sort(overlap, ["", "a", "b", "ab", "abc", "bcd"]) == ["", "b", "abc"]
    objects = {
        "type": "object",
        "oneOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ],
    }
    values = [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"a": 1, "b": "x"}, {"a": "x", "b": 1}]
    assert sort(objects, values) == [{"a": 1}, {"b": 1}, {"a": 1, "b": "x"}, {"a": "x", "b": 1}]
    with pytest.raises(GrammarError, match="no value"):
        from_json_schema({"oneOf": [{"type": "string"}, {"type": "string"}]})


def test_one_of_many_constants():
    choices = [{"const": f"port-{i}", "title": f"Port {i}"} for i in range(900)]
    schema = {"oneOf": [*choices, {"const": 1}, {"const": 1.0}, {"const": True}, {"enum": ["port-3", None]}]}
    assert sort(schema, ["port-899", "port-3", "port-900", 1, True, None]) == ["port-899", True, None]
    open_one = {"oneOf": [*choices, {"type": "string", "pattern": "^port-[0-9]$"}]}
    assert sort(open_one, ["port-3", "port-30", "port-"]) == ["port-30"]


def test_one_of_many_objects_with_a_tag():
    def tagged(i):
        properties = {"kind": {"$ref": f"#/$defs/k{i}"}, "size": {"type": "integer"}}
        return {"type": "object", "properties": properties, "required": ["kind"]}

    definitions = {f"k{i}": {"const": f"k{i}"} for i in range(700)} | {"k8": {"enum": ["k8", "k9"]}}
    schema = {"$defs": definitions, "oneOf": [tagged(i) for i in range(700)]}
    values = [{"kind": "k699", "size": 1}, {"kind": "k8"}, {"kind": "k9"}, {"kind": "k7", "size": ""}, {"size": 1}]
    assert sort(schema, values) == [{"kind": "k699", "size": 1}, {"kind": "k8"}]


def test_one_of_objects_of_which_one_has_no_tag():
    tagged = [{"properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in "ab"]
    schema = {"type": "object", "oneOf": [*tagged, {"required": ["size"]}]}
    values = [{"kind": "a"}, {"kind": "a", "size": 1}, {"size": 1}, {"kind": "c", "size": 1}, {"kind": "c"}]
    assert sort(schema, values) == [{"kind": "a"}, {"size": 1}, {"kind": "c", "size": 1}]


def test_discriminated_unions():
    schema = {
        "oneOf": [
            {"type": "object", "properties": {"k": {"const": k}, k: {"type": "integer"}}, "required": ["k", k]}
            for k in ("cat", "dog", "owl")
        ]
    }
    assert sort(schema, [{"k": "cat", "cat": 1}, {"k": "cat", "dog": 1}, {"k": "owl", "owl": 2, "dog": "x"}, {}]) == [
        {"k": "cat", "cat": 1},
        {"k": "owl", "owl": 2, "dog": "x"},
    ]


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": "string"}, [v for v in VALUES if not isinstance(v, str)]),
        ({"type": ["number", "null", "boolean"]}, ["", "a", "ab", [], [1], {}, {"a": 1}, {"a": "x", "b": 2}]),
        ({"enum": [1, "a", None, [1], {"a": 1}]}, [True, 0, 2, 2.5, "", "ab", [], {}, {"a": "x", "b": 2}]),
        ({"type": "integer"}, [v for v in VALUES if v not in (0, 1, 2) or v is True]),
        ({"required": ["a"]}, [{}]),
        ({"properties": {"a": {"type": "string"}}}, [{"a": 1}]),
        ({"items": {"type": "string"}}, [[1]]),
        ({"minLength": 1}, [""]),
        ({"pattern": "^a$"}, ["", "ab"]),
        ({"multipleOf": 2}, [1, 2.5]),
        ({"maxProperties": 0}, [{"a": 1}, {"a": "x", "b": 2}]),
        ({"not": {"minimum": 1}}, [v for v in VALUES if v not in (0,) or v is False]),
        ({"anyOf": [{"type": "object"}, {"maximum": 1}]}, [2, 2.5]),
        ({"contains": {"const": 1}}, [[]]),
        ({"additionalProperties": False}, [{"a": 1}, {"a": "x", "b": 2}]),
    ],
)
def test_not(schema, kept):
    assert sort({"not": schema}, VALUES) == kept


def test_not_what_no_grammar_can_say_is_refused():
    with pytest.raises(GrammarError, match="uniqueItems"):
        from_json_schema({"not": {"uniqueItems": True}})
    with pytest.raises(GrammarError, match="named in the schema") as caught:
        from_json_schema({"not": {"additionalProperties": {"type": "string"}}})
    assert caught.value.where.startswith("#/not")


def test_if_then_else():
    schema = {
        "type": "object",
        "if": {"properties": {"country": {"const": "US"}}, "required": ["country"]},
        "then": {"properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}},
        "else": {"properties": {"zip": {"type": "null"}}},
    }
    values = [
        {"country": "US", "zip": "12345"},
        {"country": "US", "zip": None},
        {"country": "US"},
        {"country": "NL", "zip": None},
        {"country": "NL", "zip": "12345"},
        {"zip": None},
    ]
    assert sort(schema, values) == [values[0], values[2], values[3], values[5]]


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("whitespace", ["free", "compact", 2])
@pytest.mark.parametrize("order", ["any", "schema"])
def test_recursion(whitespace, order):
    def text(value):
        styles = {"free": {}, "compact": {"separators": (",", ":")}, 2: {"indent": 2}}
        return json.dumps(value, **styles[whitespace])

    options = {"whitespace": whitespace, "property_order": order}
    assert accepts(TREE, text({"value": 1, "next": {"value": 2, "next": {"value": 3}}}), **options)
    assert not accepts(TREE, text({"value": 1, "next": {"value": 2, "next": {"next": {"value": 1}}}}), **options)


def test_recursion_through_all_of_and_not():
    schema = {
        "type": "object",
        "properties": {"x": {"allOf": [{"$ref": "#"}, {"required": ["y"]}]}, "y": {"not": {"$ref": "#"}}},
        "additionalProperties": False,
    }
    values = [{}, {"x": {}}, {"x": {"y": 1}}, {"x": {"y": {}}}, {"x": {"y": {"z": 1}}}, {"x": {"y": 1, "x": {"y": 2}}}]
    assert sort(schema, values) == [values[0], values[2], values[4], values[5]]


def test_what_never_ends_is_an_error():
    for schema in (
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ):
        with pytest.raises(GrammarError, match=r"without end|leads back"):
            from_json_schema(schema)
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    with pytest.raises(GrammarError, match="no value"):
        from_json_schema(endless)


def test_references_by_id_anchor_and_document():
    schema = {
        "$id": "http://example.com/root.json",
        "properties": {
            "a": {"$ref": "other.json"},
            "b": {"$ref": "#here"},
            "c": {"$ref": "http://example.com/root.json#/$defs/x~1y"},
            "d": {"$ref": "http://elsewhere.org/s#/definitions/n"},
        },
        "$defs": {
            "one": {"$id": "other.json", "type": "integer"},
            "two": {"$anchor": "here", "type": "boolean"},
            "x/y": {"type": "null"},
        },
    }
    elsewhere = {"http://elsewhere.org/s": {"definitions": {"n": {"type": "string"}}}}
    values = [{"a": 1}, {"a": "x"}, {"b": True}, {"b": 1}, {"c": None}, {"c": 1}, {"d": "x"}, {"d": 1}]
    assert sort(schema, values, resources=elsewhere) == values[::2]
    with pytest.raises(GrammarError, match="leads out of the document") as caught:
        from_json_schema(schema)
    assert caught.value.where == "#/properties/d/$ref"


def test_siblings_of_a_reference_count_since_2019():
    schema = {"$ref": "#/$defs/a", "maximum": 3, "$defs": {"a": {"type": "integer"}}}
    assert sort(schema, [1, 5]) == [1]
    assert sort(schema, [1, 5], draft=7) == [1, 5]


@pytest.mark.parametrize(
    ("schema", "where", "problem"),
    [
        ({"type": "text"}, "#/type", "a type"),
        ({"properties": []}, "#/properties", "an object of schemas"),
        ({"items": {"minLength": -1}}, "#/items/minLength", "a count"),
        ({"properties": {"a": {"minimum": "1"}}}, "#/properties/a/minimum", "a number"),
        ({"anyOf": []}, "#/anyOf", "a list of schemas"),
        ({"$ref": "#/$defs/none"}, "#/$ref", "nothing at"),
        ({"allOf": [{"$ref": "#none"}]}, "#/allOf/0/$ref", "no anchor"),
        ({"multipleOf": 0}, "#/multipleOf", "above zero"),
        ({"required": "a"}, "#/required", "a list of strings"),
        (7, "#", "not a schema"),
        ("{", "#", "not JSON"),
        ({"enum": {1}}, "#", "not JSON"),
        ({"type": "string", "minLength": 3, "maxLength": 2, "$schema": "http://json-schema.org/draft-03/schema#"},
         "#/$schema", "draft 3"),
        ({"not": {}}, "#", "no value"),
        (False, "#", "no value"),
    ],
)  # fmt: skip
def test_errors_name_the_place(schema, where, problem):
    with pytest.raises(GrammarError, match=problem) as caught:
        from_json_schema(schema)
    assert caught.value.where == where


def test_too_many_alternatives_are_an_error():
    many = {"allOf": [{"anyOf": [{"minimum": i, "required": [f"{i}{j}"]} for j in range(20)]} for i in range(6)]}
    with pytest.raises(GrammarError, match="alternatives"):
        from_json_schema(many)


OVERLAPPING = {
    "oneOf": [
        {"type": "object", "properties": {f"p{i}": {"type": "string"}, "k": {"minimum": i}}, "required": [f"p{i}"]}
        for i in range(40)
    ]
}


def test_branches_that_overlap_too_much_are_an_error_or_if_lenient_any_of_them():
    with pytest.raises(GrammarError, match="alternatives"):
        from_json_schema(OVERLAPPING)
    translation = translate(OVERLAPPING, lenient=True)
    assert [(each.pointer, each.keyword) for each in translation.unenforced] == [("#", "oneOf")]
    assert naive.matches(translation.grammar, b'{"p3": "", "k": 5}')
    assert not naive.matches(translation.grammar, b'{"k": 5}')


def test_long_chains_of_conditions():
    chain = [
        {"if": {"properties": {"a": {"const": i}}, "required": ["a"]}, "then": {"required": [f"x{i}"]}}
        for i in range(30)
    ]
    values = [{}, {"a": 3}, {"a": 3, "x3": 0}, {"a": 3, "x4": 0}, {"a": 99}, {"a": "3"}]
    assert sort({"type": "object", "allOf": chain}, values) == [{}, {"a": 3, "x3": 0}, {"a": 99}, {"a": "3"}]
