"""Whatever it is given, the front end makes a grammar or raises a GrammarError, and soon."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import translate
from tokloom.grammar.json_schema.keywords import KEYWORDS

NAMES = st.sampled_from([keyword.name for keyword in KEYWORDS] + ["a", "b"])
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from(["#", "#/a", "#/properties/a", "string", "date", "^a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.dictionaries(NAMES, ANYTHING, max_size=4), st.booleans())
def test_anything_is_a_grammar_or_an_error(schema, lenient):
    where = "#"
    try:
        translate(schema, lenient=lenient)
    except GrammarError as error:
        where = error.where
    assert where.startswith("#")


def nested(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(9)]} for i in range(9)]},
        {"dependentRequired": {f"a{i}": [f"b{i}"] for i in range(30)}},
        {"oneOf": [{"const": [None, None, [None]]}, {"items": {"$ref": "#"}}]},
        nested(5000),
        '{"minimum": 1e1000000000}',
        {"minimum": 10**3000},
    ],
)
def test_what_would_grow_beyond_bounds_is_an_error_and_soon(schema):
    start = time.process_time()
    with pytest.raises(GrammarError):
        translate(schema)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 10**30},
        {"type": "array", "minItems": 10**9},
        {"type": "number", "multipleOf": 1e-300},
        {"enum": list(range(3000))},
        {"not": {"enum": [str(number) for number in range(3000)]}},
        {"properties": {f"p{i}": nested(3) for i in range(500)}},
        nested(50),
    ],
)
def test_large_but_simple_is_no_matter(schema):
    start = time.process_time()
    translate(schema)
    assert time.process_time() - start < 5
