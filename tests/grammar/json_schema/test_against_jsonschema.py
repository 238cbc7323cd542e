"""Random schemas and instances: a text is in the grammar exactly if jsonschema finds its value valid."""

import json
import re

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.grammar import naive
from tests.grammar.sample import samples
from tokloom.errors import GrammarError
from tokloom.grammar.expression import Grammar
from tokloom.grammar.json_schema import from_json_schema

EXPONENT = re.compile(r"\de[+-]?\d")
NAMES = st.sampled_from(["a", "b", "ab", "x", ""])
TEXTS = st.sampled_from(["", "a", "b", "ab", "ba", "aab", "é", "\U0001f600", '"\\', "\n", "1"])
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 5, 6, 10, 12, 99, 100, -1, -3, -10, 0.5, 1.5, -0.5, 2.0, 0.25, 1e-7, 1.5e20, -3e-9]
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)
COUNTS = STYLE = st.integers(0, 3)
PATTERNS = st.sampled_from(["^a", "b$", "^[ab]+$", "a", "^.$", "^$", "^[^a]*$", "1|é"])

KEYWORDS = {
    "type": st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
    | st.lists(st.sampled_from(["integer", "string", "array", "object"]), min_size=1, max_size=3, unique=True),
    "enum": st.lists(VALUES, min_size=1, max_size=4),
    "const": VALUES,
    "minimum": NUMBERS,
    "maximum": NUMBERS,
    "exclusiveMinimum": NUMBERS,
    "exclusiveMaximum": NUMBERS,
    "multipleOf": st.sampled_from([1, 2, 3, 5, 0.5, 1.5]),
    "minLength": COUNTS,
    "maxLength": COUNTS,
    "pattern": PATTERNS,
    "minItems": COUNTS,
    "maxItems": COUNTS,
    "uniqueItems": st.booleans(),
    "minContains": COUNTS,
    "maxContains": COUNTS,
    "required": st.lists(NAMES, max_size=2, unique=True),
    "minProperties": COUNTS,
    "maxProperties": COUNTS,
    "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True), max_size=1),
}


def with_schemas(inner):
    some = st.lists(inner, min_size=1, max_size=3)
    return {
        "items": inner,
        "prefixItems": some,
        "contains": inner,
        "properties": st.dictionaries(NAMES, inner, max_size=3),
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
        "propertyNames": inner,
        "dependentSchemas": st.dictionaries(NAMES, inner, max_size=1),
        "unevaluatedProperties": inner,
        "unevaluatedItems": inner,
        "allOf": some,
        "anyOf": some,
        "oneOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
    }


@st.composite
def one_schema(draw, keywords):
    chosen = draw(st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=4, unique=True))
    if draw(st.booleans()):
        chosen.append("type")
    return {keyword: draw(keywords[keyword]) for keyword in chosen}


LEAVES = one_schema(KEYWORDS) | st.sampled_from(
    [True, True, False, {"items": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}}, {"type": "object"}]
)
SCHEMAS = st.recursive(LEAVES, lambda inner: one_schema({**KEYWORDS, **with_schemas(inner)}), max_leaves=6)

SIMPLE = st.sampled_from([
    True, False, {"type": "string"}, {"type": "integer"}, {"const": 1}, {"const": "a"}, {"enum": [1, 2, "a"]},
    {"minimum": 2},
    {"maxLength": 1}, {"not": {"const": 1}}, {"items": {"$ref": "#"}}, {"properties": {"a": {"$ref": "#"}}},
])  # fmt: skip
FEW = {"type": st.sampled_from(["object", "array"]), "required": KEYWORDS["required"], "maxItems": COUNTS}
DEEP = st.recursive(SIMPLE, lambda inner: one_schema({**FEW, **with_schemas(inner)}), max_leaves=10)
FLAT = st.recursive(
    st.sampled_from([1, 2, "a", "b", None, True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ab"]), inner, max_size=3),
    max_leaves=6,
)

CANNOT = (
    "can only be told apart",
    "can't be told apart",
    "can't be enforced",
    "can only be enforced",
    "without end",
    "leads back",
    "too many alternatives",
)
"""What the front end refuses, by its limits in `keywords`."""


def spelled(value, style):
    options = [{}, {"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}][style]
    return json.dumps(value, **options).encode()


def compiled(schema, **options):
    """The grammar; None if no value is valid; "refused" by the limits that `keywords` tells of."""
    try:
        return from_json_schema(schema, **options)
    except GrammarError as error:
        if any(reason in error.problem for reason in CANNOT):
            return "refused"
        if "no value is valid" in error.problem:
            return None
        raise


def check(schema, values, style=0):
    grammar = compiled(schema)
    if grammar == "refused":
        return False
    validator = jsonschema.Draft202012Validator(schema)
    for value in values:
        accepted = grammar is not None and naive.matches(grammar, spelled(value, style))
        valid = validator.is_valid(value)
        text = spelled(value, style).decode()
        if EXPONENT.search(text) and ("integer" in str(schema) or "multipleOf" in str(schema)):
            assert valid or not accepted, (schema, value)  # these are written without exponents
        else:
            assert accepted == valid, (schema, value)
    return True


LAYOUTS = ({}, {"whitespace": "compact"}, {"whitespace": 2}, {"property_order": "schema"})
OPTIONS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@OPTIONS
@given(SCHEMAS.filter(lambda schema: isinstance(schema, dict)), st.lists(VALUES, min_size=1, max_size=6), STYLE)
def test_a_text_is_accepted_exactly_if_its_value_is_valid(schema, values, style):
    check(schema, values, style)


@OPTIONS
@given(DEEP.filter(lambda schema: isinstance(schema, dict)), st.lists(FLAT, min_size=3, max_size=9), STYLE)
def test_keywords_that_apply_others(schema, values, style):
    check(schema, values, style)


@OPTIONS
@given((SCHEMAS | DEEP).filter(lambda schema: isinstance(schema, dict)), st.integers(0, 1000), st.sampled_from(LAYOUTS))
def test_what_the_grammar_produces_is_valid(schema, seed, layout):
    grammar = compiled(schema, **layout)
    if isinstance(grammar, Grammar):
        validator = jsonschema.Draft202012Validator(schema)
        for text in samples(grammar, seed, 4):
            assert validator.is_valid(json.loads(text)), (schema, text)
