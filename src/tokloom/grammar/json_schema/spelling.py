"""From languages of text to languages of the bodies of JSON strings.

A character may be spelled in several ways in JSON. These are in the language, so that what any JSON writer
makes is accepted, and no character has a spelling that only complicates masks:

    U+0020 and above, without " and \\      itself
    " \\ backspace, tab, line feed, form feed, carriage return      their short escapes
    /                                      itself, or \\/
    other control characters               \\u00XX
    U+007F and above                       also \\uXXXX, as a pair of surrogates where needed, hex digits in either case

So printable ASCII but for / has one spelling (no \\u0041). Lone surrogates are not text, and never produced.

Every spelling is of one text only: intersections and differences of texts are those of their spellings.
"""

from __future__ import annotations

from functools import lru_cache

from tokloom.grammar.characters import Ranges, intersection
from tokloom.grammar.expression import (
    NOTHING,
    Automaton,
    Both,
    Bytes,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Literal,
    Repeat,
)

_SHORT = {
    0x08: b"\\b",
    0x09: b"\\t",
    0x0A: b"\\n",
    0x0C: b"\\f",
    0x0D: b"\\r",
    0x22: b'\\"',
    0x5C: b"\\\\",
    0x2F: b"\\/",
}
_RAW: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF))
_LONG: Ranges = ((0x00, 0x07), (0x0B, 0x0B), (0x0E, 0x1F), (0x7F, 0xD7FF), (0xE000, 0xFFFF))
_PAIRS: Ranges = ((0x10000, 0x10FFFF),)
_HEX = tuple((b"0123456789"[d : d + 1] if d < 10 else bytes((55 + d, 87 + d))) for d in range(16))
_CODE = (_HEX,) * 4
_PAIR = ((b"dD",), _HEX[8:12], _HEX, _HEX, (b"\\",), (b"u",), (b"dD",), _HEX[12:16], _HEX, _HEX)
"""For each place of a code the bytes of every digit that may be there."""


def spell(expression: Expression) -> Expression:
    """The spellings of what is in a regular expression of text: of characters and literals."""
    match expression:
        case Literal(data):
            return spell_text(data.decode())
        case Chars(ranges):
            return spell_chars(ranges)
        case Bytes(ranges):
            return spell_chars(ranges)  # a single byte is text only if it is ASCII
        case Concat(items):
            return Concat(tuple(spell(item) for item in items))
        case Either(items):
            return Either(tuple(spell(item) for item in items))
        case Repeat(item, minimum, maximum):
            return Repeat(spell(item), minimum, maximum)
        case Both(items):
            return Both(tuple(spell(item) for item in items))
        case Except(item, removed):
            return Except(spell(item), spell(removed))
    raise TypeError(f"{type(expression).__name__} is not about text")


def is_plain(text: str) -> bool:
    """Whether a text has only one spelling, itself."""
    return text.isascii() and text.isprintable() and not any(character in text for character in '"\\/')


def spell_text(text: str) -> Expression:
    """The spellings of one text."""
    if is_plain(text):
        return Literal(text.encode())
    items: list[Expression] = []
    plain = b""
    for character in text:
        point = ord(character)
        if point in _SHORT and character != "/":
            plain += _SHORT[point]
        elif 0x20 <= point < 0x7F and character != "/":
            plain += character.encode()
        else:
            if plain:
                items.append(Literal(plain))
                plain = b""
            items.append(spell_chars(((point, point),)))
    if plain:
        items.append(Literal(plain))
    return items[0] if len(items) == 1 else Concat(tuple(items))


@lru_cache(maxsize=1000)
def spell_chars(ranges: Ranges) -> Expression:
    """The spellings of a character in one of the ranges."""
    ways: list[Expression] = []
    raw = intersection(ranges, _RAW)
    if raw:
        ways.append(Chars(raw))
    ways += [Literal(short) for point, short in _SHORT.items() if any(low <= point <= high for low, high in ranges)]
    long = intersection(ranges, _LONG)
    if long:
        ways.append(Concat((Literal(b"\\u"), _codes(False, long))))
    pairs = intersection(ranges, _PAIRS)
    if pairs:
        moved = tuple((low - 0x10000, high - 0x10000) for low, high in pairs)
        ways.append(Concat((Literal(b"\\u"), _codes(True, moved))))
    return NOTHING if not ways else ways[0] if len(ways) == 1 else Either(tuple(ways))


@lru_cache(maxsize=1000)
def _codes(paired: bool, ranges: Ranges) -> Automaton:
    """The automaton of the codes of all numbers in the ranges: a trie in which equal branches are one."""
    places = _PAIR if paired else _CODE
    sizes = [1]
    for place in reversed(places):
        sizes.append(sizes[-1] * len(place))
    sizes.reverse()
    states: dict[tuple[int, Ranges], int] = {}
    edges: list[tuple[tuple[int, int, int], ...]] = []

    def state(depth: int, inside: Ranges) -> int:
        known = states.get((depth, inside))
        if known is not None:
            return known
        number = states[depth, inside] = len(edges)
        edges.append(())
        if depth < len(places):
            size = sizes[depth + 1]
            steps = []
            for digit, spelled in enumerate(places[depth]):
                start = digit * size
                part = _part(inside, start, start + size - 1)
                if part:
                    to = state(depth + 1, part)
                    steps += [(byte, byte, to) for byte in spelled]
            edges[number] = _joined(sorted(steps))
        return number

    state(0, ranges)
    return Automaton(tuple(edges), frozenset(n for (depth, _), n in states.items() if depth == len(places)))


def _part(ranges: Ranges, first: int, last: int) -> Ranges:
    """What of the ranges lies between two numbers, counted from the first."""
    return tuple(
        (max(low, first) - first, min(high, last) - first) for low, high in ranges if low <= last and high >= first
    )


def _joined(steps: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Neighbouring bytes that lead to the same state as one range."""
    joined: list[tuple[int, int, int]] = []
    for low, high, to in steps:
        if joined and joined[-1][1] + 1 == low and joined[-1][2] == to:
            joined[-1] = (joined[-1][0], high, to)
        else:
            joined.append((low, high, to))
    return tuple(joined)


CHARACTER = spell_chars(((0, 0x10FFFF),))
"""Any character in the body of a JSON string."""
