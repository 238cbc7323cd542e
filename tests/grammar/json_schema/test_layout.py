"""Whitespace: what is accepted where, and that it is bounded."""

import json

import pytest

from tests.grammar import naive
from tests.grammar.json_schema.texts import STYLES, accepts
from tokloom.errors import ArgumentError
from tokloom.grammar.json_schema import from_json_schema

SCHEMA = {
    "type": "object",
    "properties": {"list": {"type": "array", "items": {"type": "integer"}}, "any": {}},
    "required": ["list"],
    "additionalProperties": False,
}
VALUES = [{"list": []}, {"list": [1, 2], "any": {"x": [[], {}, {"y": [1, "a", None]}], "z": 1.5}}]


@pytest.mark.parametrize("value", VALUES)
def test_one_layout_is_what_json_dumps_makes(value):
    layouts = {"compact": {"separators": (",", ":")}, 0: {"indent": 0}, 2: {"indent": 2}, 4: {"indent": 4}}
    for name in layouts:
        grammar = from_json_schema(SCHEMA, whitespace=name)
        for other, style in layouts.items():
            assert naive.matches(grammar, json.dumps(value, **style).encode()) == (name == other)


@pytest.mark.parametrize("value", VALUES)
def test_free_takes_what_writers_make(value):
    grammar = from_json_schema(SCHEMA)
    for style in STYLES:
        assert naive.matches(grammar, json.dumps(value, **style).encode())
    assert naive.matches(grammar, json.dumps(value, indent=2).replace("\n", "\r\n").encode())
    assert naive.matches(grammar, json.dumps(value).replace(":", " :").encode())
    assert naive.matches(grammar, b'{"list": [ ]}')


def test_free_is_bounded():
    for text in (
        '{  "list": []}', '{"list":  []}', '{"list": [1 , 2]}', '{"list": []}\n', ' {"list": []}',
        '{\n\n"list": []}', '{"list":\n' + " " * 81 + "[]}", '{ \n"list": []}',
    ):  # fmt: skip
        assert not accepts(SCHEMA, text), text


def test_indentation_has_a_deepest_level():
    def nested(depth):
        value = 1
        for _ in range(depth):
            value = [value]
        return json.dumps(value, indent=1)

    for schema in (
        {},
        {"$defs": {"a": {"type": ["array", "integer"], "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
    ):
        assert accepts(schema, nested(16), whitespace=1)
        assert accepts(schema, nested(17), whitespace=1)
        assert not accepts(schema, nested(18), whitespace=1)
        assert accepts(schema, nested(40))


@pytest.mark.parametrize("whitespace", ["none", -1, 17, True, None])
def test_other_layouts_are_refused(whitespace):
    with pytest.raises(ArgumentError, match="whitespace"):
        from_json_schema({}, whitespace=whitespace)


def test_other_orders_are_refused():
    with pytest.raises(ArgumentError, match="property_order"):
        from_json_schema({}, property_order="sorted")
