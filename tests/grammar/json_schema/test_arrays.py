"""Arrays: items, lengths, what they contain, and that items differ."""

import itertools

import pytest

from tests.grammar.json_schema.texts import accepts, sort
from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import from_json_schema

LISTS = [list(items) for size in range(4) for items in itertools.product([1, "a"], repeat=size)]


def valid(test):
    return [items for items in LISTS if test(items)]


def test_items_and_lengths():
    integers = {"type": "array", "items": {"type": "integer"}}
    assert sort(integers, LISTS) == valid(lambda items: "a" not in items)
    for minimum, maximum in itertools.product(range(3), range(4)):
        schema = {**integers, "minItems": minimum, "maxItems": maximum}
        expected = valid(lambda items, low=minimum, high=maximum: "a" not in items and low <= len(items) <= high)
        if expected:
            assert sort(schema, LISTS) == expected
        else:
            with pytest.raises(GrammarError, match="no value"):
                from_json_schema(schema)


def test_first_items_of_their_own():
    schema = {"type": "array", "prefixItems": [{"const": 1}, {"const": "a"}], "items": {"const": 1}}
    assert sort(schema, LISTS) == [[], [1], [1, "a"], [1, "a", 1]]
    assert sort({**schema, "minItems": 2}, LISTS) == [[1, "a"], [1, "a", 1]]
    assert sort({**schema, "items": False}, LISTS) == [[], [1], [1, "a"]]
    assert sort({**schema, "prefixItems": [{"const": 1}, False]}, LISTS) == [[], [1]]
    older = {"type": "array", "items": [{"const": 1}], "additionalItems": {"const": "a"}}
    assert sort(older, LISTS, draft=7) == [[], [1], [1, "a"], [1, "a", "a"]]
    assert sort(older, LISTS) == [[], [1], [1, "a"], [1, "a", "a"]]  # no draft declared, and nothing else it could mean


def test_a_list_of_items_is_wrong_where_2020_12_is_declared():
    with pytest.raises(GrammarError, match="prefixItems"):
        from_json_schema({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{}]})


@pytest.mark.parametrize(("minimum", "maximum"), [(None, None), (0, None), (2, None), (0, 1), (1, 2), (2, 2), (0, 0)])
def test_contains(minimum, maximum):
    schema = {"type": "array", "contains": {"type": "string"}}
    schema |= {} if minimum is None else {"minContains": minimum}
    schema |= {} if maximum is None else {"maxContains": maximum}
    low, high = 1 if minimum is None else minimum, 9 if maximum is None else maximum
    assert sort(schema, LISTS) == valid(lambda items: low <= items.count("a") <= high)
    sized = {**schema, "prefixItems": [{"type": "integer"}], "minItems": 1, "maxItems": 2}
    expected = valid(lambda items: low <= items.count("a") <= high and items[:1] == [1] and len(items) <= 2)
    if expected:
        assert sort(sized, LISTS) == expected
    else:
        with pytest.raises(GrammarError, match="no value"):
            from_json_schema(sized)


def test_several_contains():
    schema = {"type": "array", "allOf": [{"contains": {"const": 1}}, {"contains": {"const": "a"}, "maxContains": 1}]}
    assert sort(schema, LISTS) == valid(lambda items: 1 in items and items.count("a") == 1)


def test_too_much_counting_is_refused():
    schema = {"allOf": [{"contains": {"const": i}, "minContains": 30} for i in range(3)]}
    with pytest.raises(GrammarError, match="states") as caught:
        from_json_schema(schema)
    assert caught.value.where == "#/allOf/0/contains"


def test_items_that_differ():
    schema = {"type": "array", "uniqueItems": True, "items": {"enum": [1, "a"]}}
    assert sort(schema, LISTS) == valid(lambda items: len(set(items)) == len(items))
    assert not accepts(schema, "[1, 1.0]")
    many = {"type": "array", "uniqueItems": True, "items": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}
    assert accepts(many, "[null, true, false]")
    assert not accepts(many, "[null, true, null]")
    apart = {"uniqueItems": True, "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False}
    assert accepts(apart, '["a", 1]')
    one = {"type": "array", "uniqueItems": True, "maxItems": 1}
    assert accepts(one, '["a"]')
    with pytest.raises(GrammarError, match="list of values") as caught:
        from_json_schema({"properties": {"x": {"type": "array", "uniqueItems": True, "items": {"type": "string"}}}})
    assert caught.value.where == "#/properties/x/uniqueItems"


def test_unevaluated_items():
    schema = {"type": "array", "prefixItems": [{"const": 1}], "contains": {"const": "a"}, "unevaluatedItems": False}
    assert sort(schema, LISTS) == [[1, "a"], [1, "a", "a"]]
