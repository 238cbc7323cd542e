"""The classes of the dialects: digits, words, white space, lines."""

from __future__ import annotations

from tokloom.grammar.characters import Ranges, ranges, union
from tokloom.grammar.regex.properties import characters

DIGITS = ranges("0123456789")
WORD = ranges((48, 57), (65, 90), (95, 95), (97, 122))
ASCII_SPACE = ranges(" \t\n\r\f\v")
ECMA_SPACE = union(ASCII_SPACE, ranges("\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff", (0x2000, 0x200A)))
ECMA_LINE = ranges("\n\r\u2028\u2029")
PYTHON_SPACE = union(  # what str.isspace accepts
    ASCII_SPACE,
    ranges((0x1C, 0x1F), "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", (0x2000, 0x200A)),
)


def known_property(name: str) -> Ranges:
    """A property that the table is known to have."""
    chars = characters(name)
    assert chars is not None
    return chars
