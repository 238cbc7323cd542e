"""Regular expressions of the intermediate form by Brzozowski's derivatives: the naive way for `Both` and `Except`.

`derive(e, byte)` is the language of what may follow `byte` in e. An expression matches if, derived by every
byte of the data, it holds the empty string; it derives something if one that does can be reached at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tokloom.grammar.expression import (
    EMPTY,
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
    Ref,
    Repeat,
)

Rules = Mapping[str, Expression]


@dataclass(frozen=True, eq=False)
class _Running:
    """An automaton in a state of it. Compared by the automaton's identity, as large ones take long to hash."""

    automaton: Automaton
    state: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Running) and self.automaton is other.automaton and self.state == other.state

    def __hash__(self) -> int:
        return hash((id(self.automaton), self.state))


def walk(expression: Expression, data: bytes, start: int) -> tuple[set[int], bool]:
    """The ends of a plain expression's matches from `start`, and whether the data may end inside of one."""
    state, ends = expression, set()
    for position in range(start, len(data)):
        if nullable(state):
            ends.add(position)
        state = derive(state, data[position])
        if state == NOTHING:
            return ends, False
    if nullable(state):
        ends.add(len(data))
    return ends, _reaches_end(state)


def is_productive(expression: Expression) -> bool:
    """Whether the plain expression's language has a string."""
    return _reaches_end(expression)


@lru_cache(maxsize=100_000)
def _reaches_end(expression: Expression) -> bool:
    seen, todo = {expression}, [expression]
    probes = sorted(_starts(expression))
    while todo:
        state = todo.pop()
        if nullable(state):
            return True
        for byte in probes:
            following = derive(state, byte)
            if following != NOTHING and following not in seen:
                seen.add(following)
                todo.append(following)
    return False


def _starts(expression: Expression) -> set[int]:
    """One byte of each class of bytes that the expression can't tell apart: the starts of all ranges and gaps."""
    match expression:
        case Literal(data):
            return {0, *data, *(byte + 1 for byte in data if byte < 255)}
        case Bytes(ranges):
            return {0, *(low for low, _ in ranges), *(high + 1 for _, high in ranges if high < 255)}
        case _Running(automaton):
            edges = (edge for state in automaton.edges for edge in state)
            return {0}.union(*(_starts(Bytes(((low, high),))) for low, high, _ in edges))
        case Concat(items) | Either(items) | Both(items):
            return {0}.union(*(_starts(item) for item in items))
        case Repeat(item):
            return _starts(item)
        case Except(item, removed):
            return _starts(item) | _starts(removed)
    raise TypeError(expression)


def plain(expression: Expression, rules: Rules) -> Expression:
    """A regular expression without rules and characters: only bytes are left. Raises TypeError if it isn't regular."""
    match expression:
        case Ref(name):
            return plain(rules[name], rules)
        case Chars(ranges):
            return _utf8(ranges)
        case Concat(items):
            return _concat([plain(item, rules) for item in items])
        case Either(items):
            return _either([plain(item, rules) for item in items])
        case Both(items):
            return Both(tuple(plain(item, rules) for item in items))
        case Repeat(item, minimum, maximum):
            return _repeat(plain(item, rules), minimum, maximum)
        case Except(item, removed):
            return Except(plain(item, rules), plain(removed, rules))
        case Automaton():
            return _Running(expression, 0)  # type: ignore[return-value]
        case Literal() | Bytes():
            return expression
    raise TypeError(f"{expression} is not regular")


@lru_cache(maxsize=1000)
def _utf8(ranges: tuple[tuple[int, int], ...]) -> Expression:
    """Characters as sequences of byte ranges."""
    sequences: list[Expression] = []

    def add(low: int, high: int) -> None:
        """Splits until all bytes but those of a common prefix run over their whole range."""
        for bound in (0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF):
            if low <= bound < high:
                add(low, bound)
                add(bound + 1, high)
                return
        if low >= 0xD800 and high <= 0xDFFF:
            return
        for bits in (6, 12, 18):
            block = 1 << bits
            if low // block != high // block:
                if low % block:
                    cut = (low // block + 1) * block
                elif high % block != block - 1:
                    cut = high // block * block
                else:
                    continue
                add(low, cut - 1)
                add(cut, high)
                return
        pairs = zip(chr(low).encode(), chr(high).encode(), strict=True)
        sequences.append(_concat([Bytes((pair,)) for pair in pairs]))

    for low, high in ranges:
        add(low, high)
    return _either(sequences)


def nullable(expression: Expression) -> bool:
    """Whether the empty string is in the expression's language."""
    match expression:
        case Literal(data):
            return not data
        case Concat(items) | Both(items):
            return all(nullable(item) for item in items)
        case Either(items):
            return any(nullable(item) for item in items)
        case Repeat(item, minimum, _):
            return minimum == 0 or nullable(item)
        case Except(item, removed):
            return nullable(item) and not nullable(removed)
        case _Running(automaton, state):
            return state in automaton.accepting
    return False


@lru_cache(maxsize=200_000)
def derive(expression: Expression, byte: int) -> Expression:
    """What may follow `byte` in the expression."""
    match expression:
        case Literal(data):
            return Literal(data[1:]) if data[:1] == bytes([byte]) else NOTHING
        case Bytes(ranges):
            return EMPTY if any(low <= byte <= high for low, high in ranges) else NOTHING
        case Concat(items):
            ways = []
            for index, item in enumerate(items):
                ways.append(_concat([derive(item, byte), *items[index + 1 :]]))
                if not nullable(item):
                    break
            return _either(ways)
        case Either(items):
            return _either([derive(item, byte) for item in items])
        case Repeat(item, minimum, maximum):
            fewer = None if maximum is None else maximum - 1
            return _concat([derive(item, byte), _repeat(item, max(minimum - 1, 0), fewer)])
        case Both(items):
            derived = [derive(item, byte) for item in items]
            return NOTHING if NOTHING in derived else Both(tuple(derived))
        case Except(item, removed):
            kept, gone = derive(item, byte), derive(removed, byte)
            return NOTHING if kept == NOTHING else kept if gone == NOTHING else Except(kept, gone)
        case _Running(automaton, state):
            for low, high, to in automaton.edges[state]:
                if low <= byte <= high:
                    return _Running(automaton, to)
            return NOTHING
    raise TypeError(expression)


def _concat(items: list[Expression]) -> Expression:
    flat: list[Expression] = []
    for item in items:
        if item == NOTHING:
            return NOTHING
        if isinstance(item, Concat):
            flat.extend(item.items)
        elif item != EMPTY:
            flat.append(item)
    return EMPTY if not flat else flat[0] if len(flat) == 1 else Concat(tuple(flat))


def _either(items: list[Expression]) -> Expression:
    """Without doubles, so that derivatives are finitely many."""
    flat: dict[Expression, None] = {}
    for item in items:
        for each in item.items if isinstance(item, Either) else (item,):
            flat[each] = None
    return next(iter(flat)) if len(flat) == 1 else Either(tuple(sorted(flat, key=hash)))


def _repeat(item: Expression, minimum: int, maximum: int | None) -> Expression:
    if maximum == 0:
        return EMPTY
    if item == NOTHING:
        return NOTHING if minimum else EMPTY
    if nullable(item):
        minimum = 0
    return item if (minimum, maximum) == (1, 1) else Repeat(item, minimum, maximum)
