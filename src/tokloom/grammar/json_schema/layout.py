"""Where whitespace goes, and the rules that every JSON grammar shares.

"compact" has none. A number n is `json.dumps(..., indent=n)`: one item a line, n spaces deeper at each level.
"free", the default, takes what JSON writers make, compact, spaced or indented: after an opening bracket, comma
or colon and before a closing bracket a space, or a line break with up to 80 spaces or 20 tabs; before a colon a space.
It is bounded, because a model that may go on with whitespace for ever sometimes does.
"""

from __future__ import annotations

from typing import Literal as Choice
from typing import TypeAlias

from tokloom.errors import ArgumentError
from tokloom.grammar.expression import (
    EMPTY,
    Concat,
    Either,
    Expression,
    Literal,
    Ref,
    Repeat,
)
from tokloom.grammar.json_schema.numerals import INTEGER, NUMBER, PLAIN_INTEGER
from tokloom.grammar.json_schema.spelling import CHARACTER

Whitespace: TypeAlias = Choice["free", "compact"] | int

DEPTH = 16
"""How deep values are nested at most where every level has an indentation of its own."""

_QUOTE = Literal(b'"')
_BREAK = Concat((
    Either((Literal(b"\n"), Literal(b"\r\n"))),
    Either((Repeat(Literal(b" "), 0, 80), Repeat(Literal(b"\t"), 1, 20))),
))  # fmt: skip

STRING = Ref("string")
NUMERAL = Ref("number")
INTEGER_NUMERAL = Ref("integer")
PLAIN_INTEGER_NUMERAL = Ref("plain integer")
BOOLEAN = Either((Literal(b"true"), Literal(b"false")))
NULL = Literal(b"null")

SHARED: dict[str, Expression] = {
    "string": Concat((_QUOTE, Repeat(CHARACTER), _QUOTE)),
    "number": NUMBER,
    "integer": INTEGER,
    "plain integer": PLAIN_INTEGER,
}


class Layout:
    """The whitespace of one grammar. Depth is how many brackets are open; only an indentation depends on it."""

    def __init__(self, whitespace: Whitespace) -> None:
        self.indent: int | None = None
        self.rules: dict[str, Expression] = {}
        self.comma: Expression = Literal(b",")
        self.colon: Expression = Literal(b":")
        self.gap: Expression = EMPTY
        if whitespace == "free":
            gap = Ref("gap")
            self.rules = {
                "gap": Either((EMPTY, Literal(b" "), _BREAK)),
                "comma": Concat((Literal(b","), gap)),
                "colon": Concat((Either((Literal(b":"), Literal(b" :"))), gap)),
            }
            self.comma, self.colon, self.gap = Ref("comma"), Ref("colon"), gap
        elif isinstance(whitespace, int) and not isinstance(whitespace, bool) and 0 <= whitespace <= 16:
            self.indent, self.colon = whitespace, Literal(b": ")
        elif whitespace != "compact":
            raise ArgumentError("whitespace", whitespace, '"free", "compact" or an indentation from 0 to 16')
        self.rules = {**SHARED, **self.rules}
        if self.indent is None:
            self._any(0)

    def level(self, depth: int) -> int:
        """What tells the rules for one depth from those for another."""
        return 0 if self.indent is None else depth

    def separator(self, depth: int) -> Expression:
        """Between the items of a bracket at this depth."""
        return self.comma if self.indent is None else Literal(b"," + self._line(depth + 1))

    def bracket(self, opening: bytes, closing: bytes, items: Expression | None, empty: bool, depth: int) -> Expression:
        """Brackets around items, at least one of them; around nothing too, if `empty`."""
        if self.indent is not None:
            full = [Literal(opening + self._line(depth + 1)), items, Literal(self._line(depth) + closing)]
            none: Expression = Literal(opening + closing)
        elif self.gap is EMPTY:
            full = [Literal(opening), items, Literal(closing)]
            none = Literal(opening + closing)
        else:
            full = [Literal(opening), self.gap, items, self.gap, Literal(closing)]
            none = Concat((Literal(opening), self.gap, Literal(closing)))
        if items is None:
            return none
        some = Concat(tuple(item for item in full if item is not None))
        return Either((none, some)) if empty else some

    def _line(self, depth: int) -> bytes:
        return b"\n" + b" " * ((self.indent or 0) * depth)

    def value(self, depth: int) -> Expression:
        """Any JSON value."""
        level = self.level(depth)
        if level > DEPTH:
            return Either((STRING, NUMERAL, BOOLEAN, NULL))
        return Ref(self._any(level))

    def array(self, depth: int) -> Expression:
        """Any array."""
        self.value(depth)
        return self.rules[f"array {self.level(depth)}"]

    def _any(self, level: int) -> str:
        """Makes the rules of any value at a level, and below it."""
        name = f"value {level}"
        if name not in self.rules:
            self.rules[name] = EMPTY  # taken
            inner = Ref(name) if self.indent is None else self.value(level + 1)
            separator = self.separator(level)
            pair = Concat((STRING, self.colon, inner))
            items = Concat((inner, Repeat(Concat((separator, inner)))))
            pairs = Concat((pair, Repeat(Concat((separator, pair)))))
            self.rules[f"array {level}"] = self.bracket(b"[", b"]", items, True, level)
            self.rules[f"object {level}"] = self.bracket(b"{", b"}", pairs, True, level)
            array, object_ = Ref(f"array {level}"), Ref(f"object {level}")
            self.rules[name] = Either((object_, array, STRING, NUMERAL, BOOLEAN, NULL))
        return name


def quoted(body: Expression) -> Expression:
    """A JSON string with this body."""
    return Concat((_QUOTE, body, _QUOTE))
