"""The text of a grammar while it is read: a cursor, and errors that say line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from tokloom.errors import ArgumentError, GrammarError, UnknownNameError
from tokloom.grammar.expression import Expression, Grammar, Ref

DEEPEST = 100
"""How deep groups may be nested, so that reading and matching stay within Python's stack."""


class Source:
    """A cursor over `text`. Also notes which rules are defined and which are used where."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ArgumentError("grammar", text, "a text")
        self.text = text
        self.place = 0
        self.depth = 0
        self.rules: dict[str, Expression] = {}
        self._uses: dict[str, int] = {}

    # --- reading

    @property
    def at_end(self) -> bool:
        return self.place >= len(self.text)

    def peek(self, start: str) -> bool:
        return self.text.startswith(start, self.place)

    def take(self, start: str) -> bool:
        """Moves on if `start` is next."""
        if self.peek(start):
            self.place += len(start)
            return True
        return False

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Moves on if the pattern matches here."""
        found = pattern.match(self.text, self.place)
        if found is not None:
            self.place = found.end()
        return found

    def see(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The match of the pattern here, without moving."""
        return pattern.match(self.text, self.place)

    def next(self, what: str) -> str:
        """The next character. Refuses the end of the text where `what` should be."""
        if self.at_end:
            self.expected(what)
        self.place += 1
        return self.text[self.place - 1]

    # --- errors

    def where(self, place: int | None = None) -> str:
        place = self.place if place is None else place
        line = self.text.count("\n", 0, place) + 1
        return f"line {line}, column {place - (self.text.rfind(chr(10), 0, place) + 1) + 1}"

    def refuse(self, problem: str, place: int | None = None, hint: str = "") -> NoReturn:
        raise GrammarError(self.where(place), problem, hint)

    def expected(self, what: str, place: int | None = None, hint: str = "") -> NoReturn:
        """Refuses what is next (or at `place`), for `what` should be there."""
        if place is not None:
            self.place = place
        found = re.compile(r"[\w-]+|.", re.DOTALL).match(self.text, self.place)
        shown = "the text ends" if found is None else f"found {found[0][:30]!r}"
        self.refuse(f"{what} was expected, but {shown}", hint=hint)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Refuses at the present place what nests deeper than Python's stack."""
        try:
            yield
        except RecursionError:
            self.refuse("the grammar nests too deep here")

    def deeper(self) -> None:
        """Enters a group. Refuses too deep a nesting."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"groups are nested more than {DEEPEST} deep")

    # --- rules

    def define(self, name: str, expression: Expression, place: int) -> None:
        if name in self.rules:
            self.refuse(f"the rule {name!r} is defined twice", place)
        self.rules[name] = expression

    def use(self, name: str, place: int) -> Ref:
        self._uses.setdefault(name, place)
        return Ref(name)

    def grammar(self, start: str) -> Grammar:
        """The grammar that starts with the rule `start`. Refuses rules that are used and not defined."""
        for name, place in self._uses.items():
            if name not in self.rules:
                self.refuse(f"there is no rule {name!r}", place, nearest(name, self.rules))
        if start not in self.rules:
            self.refuse(f"there is no rule {start!r} to start with", len(self.text), nearest(start, self.rules))
        return Grammar(Ref(start), self.rules)


def nearest(name: str, rules: Mapping[str, Expression]) -> str:
    """A hint with the rules that are called alike."""
    if not rules:
        return "No rule is defined."
    found = UnknownNameError("rule", name, rules).suggestions
    return f"Did you mean {' or '.join(map(repr, found))}?" if found else ""


SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "f": "\f", "v": "\v", "b": "\b", "a": "\a"}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def escaped(source: Source, plain: str, simple: str) -> str:
    """The character of the escape whose backslash has been read.

    plain: characters that stand for themselves after a backslash. simple: those of SIMPLE_ESCAPES that count.
    """
    place = source.place - 1
    char = source.next("the character of the escape")
    if char in _HEXADECIMAL:
        length = _HEXADECIMAL[char]
        digits = source.text[source.place : source.place + length]
        if not re.fullmatch(f"[0-9A-Fa-f]{{{length}}}", digits):
            source.refuse(f"\\{char} needs {length} hexadecimal digits", place)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            source.refuse(f"\\{char}{digits} is no Unicode character", place)
        source.place += length
        return chr(code)
    if char in simple:
        return SIMPLE_ESCAPES[char]
    if char in plain:
        return char
    return source.refuse(f"\\{char} is no escape that is known here", place, "Write a backslash as \\\\.")
