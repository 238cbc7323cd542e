"""Strings: spellings, lengths in characters, patterns and formats."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grammar import naive
from tests.grammar.json_schema.texts import accepts, sort
from tokloom.errors import GrammarError
from tokloom.grammar.expression import Chars, Grammar
from tokloom.grammar.json_schema import formats, from_json_schema, regular, translate
from tokloom.grammar.json_schema.layout import SHARED
from tokloom.grammar.json_schema.spelling import spell, spell_chars, spell_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_every_text_is_a_string_as_any_writer_spells_it(text):
    grammar = Grammar(SHARED["string"], {})
    for body in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
        assert naive.matches(grammar, body.encode())
        assert naive.matches(Grammar(spell_text(text), {}), body[1:-1].encode())


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_spellings_are_of_one_text_only(left, right):
    grammar = Grammar(spell_text(left), {})
    assert naive.matches(grammar, json.dumps(right)[1:-1].encode()) == (left == right)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 0x10FFFF), st.integers(0, 5000)), min_size=1, max_size=4),
    st.lists(st.integers(0, 0x10FFFF), max_size=20),
)
def test_characters_of_ranges(pairs, points):
    ranges, last = [], -2
    for low, size in sorted(pairs):
        low, high = max(low, last + 2), min(low + size, 0x10FFFF)
        if low <= high:
            ranges.append((low, high))
            last = high
    grammar = Grammar(spell_chars(tuple(ranges)), {})
    edges = [point for low, high in ranges for point in (low - 1, low, high, high + 1)]
    for point in (*points, *edges):
        if 0 <= point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
            inside = any(low <= point <= high for low, high in ranges)
            assert naive.matches(grammar, json.dumps(chr(point))[1:-1].encode()) == inside, hex(point)
            raw = json.dumps(chr(point), ensure_ascii=False)[1:-1]
            assert naive.matches(grammar, raw.encode()) == inside, hex(point)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a/b"},
        {"enum": ["a/b", "c"]},
        {"pattern": "^a/b$", "type": "string"},
        {"type": "string", "maxLength": 3},
    ],
)
def test_a_slash_may_be_escaped(schema):
    assert accepts(schema, '"a/b"')
    assert accepts(schema, r'"a\/b"')
    assert not accepts(schema, r'"a\//b"')


def test_a_slash_in_a_name_may_be_escaped_and_the_name_comes_once():
    schema = {"properties": {"a/b": {"type": "integer"}}, "type": "object"}
    assert accepts(schema, r'{"a\/b": 1}')
    assert not accepts(schema, r'{"a\/b": "x"}')
    assert not accepts(schema, r'{"a\/b": 1, "a/b": 1}')


def test_what_is_no_json_string_is_not_spelled():
    for text in ('"\n"', '"\\x"', '"\\u00"', '"a', '"\\ud800"', '"\\udc00\\ud800"', '"""', '"\\u0041"', '"\\u002f"'):
        assert not accepts({"type": "string"}, text), text
    assert accepts({"type": "string"}, '"\\u00E9\\uD83D\\ude00\\u001f"')


def test_lengths_are_in_characters():
    schema = {"type": "string", "minLength": 2, "maxLength": 3}
    values = ["", "a", "é", "😀", "ab", "😀😀", "éé\n", "abc", "abcd", "😀😀😀😀"]
    assert sort(schema, values) == ["ab", "😀😀", "éé\n", "abc"]


def test_lengths_that_contradict_each_other_leave_no_string():
    never = {"type": "string", "minLength": 2, "maxLength": 1}
    assert sort({"anyOf": [never, {"type": "null"}]}, [None, "a", "ab"]) == [None]
    assert sort({"additionalProperties": never, "type": "object"}, [{}, {"a": ""}]) == [{}]
    with pytest.raises(GrammarError, match="no value"):
        from_json_schema(never)


def test_patterns_speak_of_the_text_not_of_its_spelling():
    assert sort({"type": "string", "pattern": '^"\\\\\\n[é😀]$'}, ['"\\\né', '"\\\n😀', '"\\\ne', "é"]) == [
        '"\\\né',
        '"\\\n😀',
    ]
    assert sort({"type": "string", "pattern": "b"}, ["b", "abc", "ac", "\n\nb"]) == ["b", "abc", "\n\nb"]
    assert sort({"type": "string", "pattern": "^[^\\u0000-\\u007f]+$"}, ["é", "a", "éa", "漢字"]) == ["é", "漢字"]


def test_pattern_length_and_enum_together():
    schema = {"type": "string", "pattern": "^a+b?$", "maxLength": 3, "not": {"enum": ["aab", "a"]}}
    assert sort(schema, ["a", "aa", "ab", "aaa", "aab", "aaab", "b"]) == ["aa", "ab", "aaa"]
    assert sort({"enum": ["a", "bb", "cc"], "minLength": 2, "pattern": "^b|c"}, ["a", "bb", "cc", "c"]) == ["bb", "cc"]


def test_a_wrong_pattern_is_named_with_its_place():
    schema = {"properties": {"x/y": {"type": "string", "pattern": "a("}}}
    with pytest.raises(GrammarError, match="character") as caught:
        from_json_schema(schema)
    assert caught.value.where == "#/properties/x~1y/pattern"
    translation = translate(schema, lenient=True)
    assert [(each.pointer, each.keyword) for each in translation.unenforced] == [("#/properties/x~1y", "pattern")]
    assert naive.matches(translation.grammar, b'{"x/y": "anything"}')


FORMATS = {
    "date": (["2024-02-29", "1999-12-31", "2000-02-29"], ["2023-02-29", "1900-02-29", "2024-13-01", "24-01-01"]),
    "time": (["23:59:60Z", "08:30:06.283185+01:00"], ["24:00:00Z", "08:30:06", "12:59:60Z"]),
    "date-time": (["1990-12-31T15:59:50.123-08:00"], ["1990-02-31T15:59:59Z", "2020-01-01 00:00:00Z"]),
    "duration": (["P4DT12H30M5S", "P1Y", "PT0S", "P2W"], ["P", "PT", "P1", "P1D2H", "4DT12H"]),
    "email": (["joe.bloggs@example.com", '"joe bloggs"@example.com', "joe@[127.0.0.1]"], ["2962", ".a@b.com", "a@-b"]),
    "idn-email": (["실례@실례.테스트", "joe@example.com"], ["2962", "@b"]),
    "hostname": (["www.example.com", "a-b.c1"], ["-a.com", "a_b", "a..b", "a" * 64, "xn--X", ".a"]),
    "idn-hostname": (["실례.테스트", "example.com"], ["-> $1.00 <--", "a..b", "〮실례.테스트"]),
    "ipv4": (["192.168.0.1", "0.0.0.0"], ["256.0.0.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"]),
    "ipv6": (["::1", "::", "::ffff:192.168.0.1", "1:2:3:4:5:6:7:8"], ["1::d6::42", "12345::", "1:2:3:4:5:6:7"]),
    "uri": (["http://foo.bar/?baz=qux#quux", "urn:oasis:names", "mailto:a@b"], ["//foo.bar/", "http:// a", "a b:c"]),
    "uri-reference": (["/abc", "#x", "../a?b", "http://x"], ["\\\\WINDOWS", "#a\\b", "1:2"]),
    "iri": (["http://ƒøø.ßår/?∂éœ=πîx"], ["/abc", "âππ"]),
    "iri-reference": (["âππ", "#ƒ"], ["\\\\WINDOWS\\filëßåré"]),
    "uri-template": (["http://example.com/{term:1}/{term}", "a{?x,y*}"], ["http://example.com/{term", "{}"]),
    "uuid": (["2EB8AA08-AA98-11EA-B4AA-73B441D16380"], ["2eb8aa08-aa98-11ea-b4aa-73b441d1638", "2eb8aa08aa98"]),
    "json-pointer": (["/foo/bar~0/baz~1/%a", "", "/"], ["/foo/bar~", "a"]),
    "relative-json-pointer": (["0", "1/a", "2#"], ["/a", "01/a", "-1"]),
    "regex": (["([abc])+\\s+$", "^a|b{2,}?$", ""], ["^(abc]", "a**", "(", "\\"]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(formats.NAMES))
def test_formats(name):
    valid, invalid = FORMATS[name]
    grammar = from_json_schema({"type": "string", "format": name})
    for text in valid:
        assert naive.matches(grammar, json.dumps(text).encode()), text
        assert regular.matches(formats.expression(name), text)
    for text in invalid:
        assert not naive.matches(grammar, json.dumps(text).encode()), text
        assert not regular.matches(formats.expression(name), text)


def test_formats_can_be_switched_off_and_unknown_ones_are_noted():
    assert accepts({"type": "string", "format": "date"}, '"x"', formats=False)
    noted = translate({"properties": {"n": {"type": "integer", "format": "int32"}, "s": {"format": "color"}}})
    assert ("#/properties/s", "format") in [(each.pointer, each.keyword) for each in noted.unenforced]


def test_regular_matches_what_the_naive_matcher_does():
    for pattern in ("^(a|b)*c{2,3}$", "a.b", "^(?:a?){3}$", "[^a]", "^$"):
        from tokloom.grammar.regex import parse_regex

        expression = parse_regex(pattern, "ecma", search=True)
        for text in ("", "a", "aaa", "aaaa", "abcc", "bccc", "acccc", "axb", "é"):
            assert regular.matches(expression, text) == naive.matches(Grammar(expression, {}), text.encode())
            assert naive.matches(Grammar(spell(expression), {}), json.dumps(text)[1:-1].encode()) == regular.matches(
                expression, text
            )


def test_surrogates_stand_for_nothing():
    assert not naive.matches(Grammar(spell(Chars(((0xD800, 0xDFFF),))), {}), b"\\ud800")
