"""What the tests of the front end ask of a grammar."""

import json

from tests.grammar import naive
from tokloom.grammar.json_schema import from_json_schema

STYLES = ({}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4, "ensure_ascii": False}, {"indent": "\t"})


def accepts(schema, text, **options):
    """Whether the text is in the schema's grammar."""
    return naive.matches(from_json_schema(schema, **options), text.encode())


def sort(schema, values, **options):
    """The values whose texts are in the grammar, however json.dumps spells them; fails where spellings differ."""
    grammar = from_json_schema(schema, **options)
    kept = []
    for value in values:
        found = {naive.matches(grammar, json.dumps(value, **style).encode()) for style in STYLES}
        assert len(found) == 1, value
        if found.pop():
            kept.append(value)
    return kept
