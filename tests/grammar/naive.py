"""A slow and obvious matcher of the intermediate form, to hold engines and front ends against.

    matches(grammar, data)      data is in the language
    is_prefix(grammar, data)    some string of the language starts with data

Context-free expressions are matched by spans: for an expression and a start, the set of ends, and whether
the rest of the data is a prefix of something in the expression. Both are computed again and again until
nothing changes any more, so that any recursion will do. `Both`, `Except` and `Automaton` are regular;
`tests/grammar/derivatives.py` takes them byte by byte.

A `Special` has no bytes. Here it is matched by a marker, `special(token)`, that is in no UTF-8 text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.grammar import derivatives
from tokloom.grammar.expression import (
    AnyOrder,
    Automaton,
    Both,
    Bytes,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Grammar,
    Literal,
    Ref,
    Repeat,
    Special,
)

sys.setrecursionlimit(max(sys.getrecursionlimit(), 20000))  # a list by right recursion goes down once an item


def special(token: str) -> bytes:
    """What stands for a special token in the data."""
    return b"\xff" + token.encode() + b"\xff"


def matches(grammar: Grammar, data: bytes) -> bool:
    """Whether `data` is in the grammar's language."""
    spans = _Spans(grammar, data)
    return len(data) in spans.solve(grammar.start, 0).ends


def is_prefix(grammar: Grammar, data: bytes) -> bool:
    """Whether some string of the grammar's language starts with `data`."""
    spans = _Spans(grammar, data)
    return spans.solve(grammar.start, 0).open


def is_empty(grammar: Grammar) -> bool:
    """Whether there is no string in the grammar's language."""
    return not is_prefix(grammar, b"")


_last: list = [None, {}]


class _Span:
    """What is known of an expression at a start: where it may end, and whether it may run past the data's end."""

    __slots__ = ("ends", "open")

    def __init__(self) -> None:
        self.ends: set[int] = set()
        self.open = False


class _Spans:
    def __init__(self, grammar: Grammar, data: bytes) -> None:
        self.grammar, self.data = grammar, data
        self.known: dict[tuple[int, int], _Span] = {}  # by the expression's id: hashing would walk it all
        self.plain: dict[int, Expression] = {}
        if _last[0] is not grammar:  # most tests ask many times about one grammar
            _last[:] = grammar, _productive(grammar)
        self.productive = _last[1]
        self.done: set[tuple[int, int]] = set()
        self.changed = self.cyclic = False

    def solve(self, expression: Expression, start: int) -> _Span:
        while True:
            self.changed = self.cyclic = False
            self.active: set[tuple[int, int]] = set()
            self.done = set()
            span = self.at(expression, start)
            if not (self.changed and self.cyclic):
                return span

    def at(self, expression: Expression, start: int) -> _Span:
        key = (id(expression), start)
        span = self.known.setdefault(key, _Span())
        if key in self.active:
            self.cyclic = True
        elif key not in self.done:
            self.active.add(key)
            ends, is_open = self.compute(expression, start)
            self.active.discard(key)
            self.done.add(key)
            if not ends <= span.ends or (is_open and not span.open):
                span.ends |= ends
                span.open |= is_open
                self.changed = True
        return span

    def compute(self, expression: Expression, start: int) -> tuple[set[int], bool]:
        data, size = self.data, len(self.data)
        match expression:
            case Literal(literal) if data.startswith(literal, start):
                return {start + len(literal)}, start + len(literal) >= size
            case Literal(literal):
                return set(), literal.startswith(data[start:])
            case Special(token):
                return self.compute(Literal(special(token)), start)
            case Bytes(ranges):
                if start == size:
                    return set(), bool(ranges)
                hit = any(low <= data[start] <= high for low, high in ranges)
                return ({start + 1} if hit else set()), hit and start + 1 == size
            case Chars() | Both() | Except() | Automaton():
                key = id(expression)
                if key not in self.plain:
                    self.plain[key] = derivatives.plain(expression, self.grammar.rules)
                return derivatives.walk(self.plain[key], data, start)
            case Ref(name):
                span = self.at(self.grammar.rules[name], start)
                return set(span.ends), span.open
            case Either(items):
                spans = [self.at(item, start) for item in items]
                return set().union(*(span.ends for span in spans)), any(span.open for span in spans)
            case Concat(items):
                return self.concat(items, start)
            case Repeat(item, minimum, maximum):
                return self.repeat(item, minimum, maximum, start)
            case AnyOrder():
                return self.any_order(expression, start)
        raise TypeError(expression)

    def concat(self, items: tuple[Expression, ...], start: int) -> tuple[set[int], bool]:
        starts, is_open = {start}, False
        for index, item in enumerate(items):
            spans = [self.at(item, each) for each in starts]
            rest = all(self.productive[id(each)] for each in items[index + 1 :])
            is_open |= rest and any(span.open for span in spans)
            starts = set().union(*(span.ends for span in spans))
        return starts, is_open or len(self.data) in starts

    def repeat(self, item: Expression, minimum: int, maximum: int | None, start: int) -> tuple[set[int], bool]:
        cap = minimum if maximum is None else maximum  # counts above tell nothing more
        seen, ends, is_open = {(start, 0)}, set(), False
        todo = [(start, 0)]
        while todo:
            position, count = todo.pop()
            if count >= minimum:
                ends.add(position)
            if maximum is not None and count >= maximum:
                continue
            span = self.at(item, position)
            is_open |= span.open
            for end in span.ends:
                state = (end, min(count + 1, cap))
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
        return ends, is_open or len(self.data) in ends

    def any_order(self, expression: AnyOrder, start: int) -> tuple[set[int], bool]:
        members, separator = expression.members, expression.separator
        cap = expression.minimum if expression.maximum is None else expression.maximum
        caps = [member.minimum if member.maximum is None else member.maximum for member in members]

        def possible(counts: tuple[int, ...], total: int) -> bool:
            return _can_finish(expression, counts, total, self.productive)

        def nexts(counts: tuple[int, ...], total: int) -> Iterator[tuple[Expression, tuple[int, ...], int]]:
            if expression.maximum is not None and total >= expression.maximum:
                return
            for index, member in enumerate(members):
                if member.maximum is None or counts[index] < member.maximum:
                    more = min(counts[index] + 1, caps[index])
                    # A total of one is told from none, since separators start after the first.
                    yield member.item, (*counts[:index], more, *counts[index + 1 :]), min(total + 1, max(cap, 1))

        first = (start, (0,) * len(members), 0)
        seen, todo, ends, is_open = {first}, [first], set(), False
        while todo:
            position, counts, total = todo.pop()
            if total >= expression.minimum and all(c >= m.minimum for c, m in zip(counts, members, strict=True)):
                ends.add(position)
            starts = {position}
            if total:
                span = self.at(separator, position)
                starts = set(span.ends)
                is_open |= span.open and any(
                    self.productive[id(item)] and possible(more, sum_) for item, more, sum_ in nexts(counts, total)
                )
            for item, more, sum_ in nexts(counts, total):
                for each in starts:
                    span = self.at(item, each)
                    is_open |= span.open and possible(more, sum_)
                    for state in ((end, more, sum_) for end in span.ends):
                        if state not in seen:
                            seen.add(state)
                            todo.append(state)
        return ends, is_open or len(self.data) in ends


def _can_finish(expression: AnyOrder, counts: tuple[int, ...], total: int, productive: dict[int, bool]) -> bool:
    """Whether occurrences so far can be completed to a whole `AnyOrder`, with members that derive something."""
    needed, room = 0, 0
    for count, member in zip(counts, expression.members, strict=True):
        if count < member.minimum and not productive[id(member.item)]:
            return False
        needed += max(0, member.minimum - count)
        if productive[id(member.item)]:
            room = sys.maxsize if member.maximum is None else room + member.maximum - count
    if expression.maximum is not None and total + needed > expression.maximum:
        return False
    needed = max(needed, expression.minimum - total)
    if room < needed:
        return False
    return productive[id(expression.separator)] or needed == 0 or (total == 0 and needed == 1)


def _productive(grammar: Grammar) -> dict[int, bool]:
    """For every expression in the grammar whether its language has a string."""
    productive: dict[int, bool] = {}
    nodes: list[Expression] = []

    def collect(expression: Expression) -> None:
        if id(expression) in productive:
            return
        productive[id(expression)] = False
        nodes.append(expression)
        if isinstance(expression, (Both, Except, Automaton, Chars)):
            productive[id(expression)] = derivatives.is_productive(derivatives.plain(expression, grammar.rules))
        elif isinstance(expression, Ref):
            collect(grammar.rules[expression.name])
        else:
            for child in _children(expression):
                collect(child)

    collect(grammar.start)
    changed = True
    while changed:
        changed = False
        for expression in nodes:
            if not productive[id(expression)] and _derives(expression, grammar, productive):
                productive[id(expression)] = changed = True
    return productive


def _children(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Concat(items) | Either(items):
            return items
        case Repeat(item):
            return (item,)
        case AnyOrder(members, separator):
            return (*(member.item for member in members), separator)
    return ()


def _derives(expression: Expression, grammar: Grammar, productive: dict[int, bool]) -> bool:
    match expression:
        case Literal() | Special():
            return True
        case Bytes(ranges):
            return bool(ranges)
        case Ref(name):
            return productive[id(grammar.rules[name])]
        case Either(items):
            return any(productive[id(item)] for item in items)
        case Concat(items):
            return all(productive[id(item)] for item in items)
        case Repeat(item, minimum, _):
            return minimum == 0 or productive[id(item)]
        case AnyOrder(members):
            return _can_finish(expression, (0,) * len(members), 0, productive)
    return False
