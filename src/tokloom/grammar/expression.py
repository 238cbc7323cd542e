"""The one intermediate form between the front ends and the grammar engine.

An expression stands for a set of byte strings, its language; a front end builds one, the engine
matches one. Nothing here says how an expression is matched: there is no lexer, no greediness and no
preference, a string is in the language or it is not.

Text is UTF-8: `Chars` and `text` write characters as their bytes, so that an expression that is made
of them accepts valid UTF-8 only.

A `Grammar` adds named rules, which may be recursive in any way (left, right, nested, ambiguous).
`Both`, `Except` and `Automaton` stand for regular languages: what they contain, `Ref`s followed, must
not be recursive and must hold no `AnyOrder` and no `Special`; the engine refuses it otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, Union

Expression: TypeAlias = Union[
    "Literal", "Bytes", "Chars", "Concat", "Either", "Repeat", "Ref", "Both", "Except", "Automaton", "AnyOrder",
    "Special",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly these bytes; b"" is the empty string."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Bytes:
    """One byte out of inclusive ranges, ascending and disjoint."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Chars:
    """One Unicode character out of inclusive ranges of code points, ascending and disjoint; surrogates stand
    for nothing."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """One after the other; the empty string if there are no items."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """Any one of the items; nothing at all, the empty set, if there are none."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`minimum` to `maximum` times; None is without bound. Bounds may be large: they are counted, not written out."""

    item: Expression
    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """A rule of the grammar, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Both:
    """In the language of every item: their intersection. Regular items only."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Except:
    """What is in `item` and not in `removed`. Both regular. `Except(ANY_TEXT, x)` is the complement in text."""

    item: Expression
    removed: Expression


@dataclass(frozen=True, slots=True)
class Automaton:
    """A deterministic automaton over bytes; state 0 is the start.

    edges: for each state (first byte, last byte, next state), ascending and disjoint; no edge, no way.
    accepting: the states in which a string may end.
    """

    edges: tuple[tuple[tuple[int, int, int], ...], ...]
    accepting: frozenset[int]


@dataclass(frozen=True, slots=True)
class Member:
    """One of the things that an `AnyOrder` may hold, `minimum` to `maximum` times."""

    item: Expression
    minimum: int = 0
    maximum: int | None = 1


@dataclass(frozen=True, slots=True)
class AnyOrder:
    """`members` in any order with `separator` between them: the properties of an object, in one word.

    Each member occurs as often as it allows, and there are `minimum` to `maximum` occurrences in all. The
    engine keeps counts while it matches; it does not write out the orders. It refuses a separator that
    may be empty together with a member that may be.
    """

    members: tuple[Member, ...]
    separator: Expression
    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Special:
    """One special token of the tokenizer, by its text (``<|im_end|>``); it has no bytes."""

    token: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """An expression with the rules that it may refer to."""

    start: Expression
    rules: Mapping[str, Expression]


EMPTY = Literal(b"")
NOTHING = Either(())
ANY_CHAR = Chars(((0, 0x10FFFF),))
ANY_TEXT = Repeat(ANY_CHAR)


def text(string: str) -> Literal:
    """The string as UTF-8."""
    return Literal(string.encode())
