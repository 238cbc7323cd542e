"""Random strings of a grammar, for tests of what a grammar must not produce."""

from __future__ import annotations

from random import Random

from tests.grammar import derivatives, naive
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
)


class DeadEndError(Exception):
    """A choice led to where nothing can follow; try again."""


def sample(grammar: Grammar, random: Random, tries: int = 30, size: int = 4) -> bytes | None:
    """A string of the grammar, or None if none was found. size: how deep rules are followed by free choice."""
    for _ in range(tries):
        try:
            return _Sampler(grammar, random, size).any(grammar.start, 0)
        except (DeadEndError, RecursionError):
            continue
    return None


class _Sampler:
    def __init__(self, grammar: Grammar, random: Random, size: int) -> None:
        self.grammar, self.random, self.size = grammar, random, size

    def any(self, expression: Expression, depth: int) -> bytes:
        random = self.random
        if depth > 12 * self.size:
            raise DeadEndError
        match expression:
            case Literal(data):
                return data
            case Bytes(ranges) if ranges:
                return bytes([random.randint(*random.choice(ranges))])
            case Chars(ranges):
                low, high = random.choice(ranges) if ranges else (1, 0)
                points = [low, high, random.randint(low, high)] if low <= high else []
                points = [point for point in points if not 0xD800 <= point <= 0xDFFF]
                return chr(self.pick(points)).encode()
            case Concat(items):
                return b"".join(self.any(item, depth + 1) for item in items)
            case Either(items):
                # Deep down whatever is last: grammars put what ends the text there.
                return self.any(self.pick(items) if depth < 6 * self.size else self.pick(items[-2:]), depth + 1)
            case Ref(name):
                return self.any(self.grammar.rules[name], depth + 1)
            case Repeat(item, minimum, maximum):
                top = minimum + random.choice((0, 0, 1, 3)) if depth < 6 * self.size else minimum
                count = random.randint(minimum, top if maximum is None else min(top, maximum))
                return b"".join(self.any(item, depth + 1) for _ in range(count))
            case AnyOrder():
                return self.in_any_order(expression, depth)
            case Both(items):
                return self.held(items[0], expression, depth)
            case Except(item):
                return self.held(item, expression, depth)
            case Automaton(edges, accepting):
                return self.walk(edges, accepting)
        raise DeadEndError

    def pick(self, choices):
        if not choices:
            raise DeadEndError
        return self.random.choice(choices)

    def held(self, part: Expression, whole: Expression, depth: int) -> bytes:
        """Something out of a part of an intersection or difference that is in the whole, by trial."""
        plain = derivatives.plain(whole, self.grammar.rules)
        for _ in range(20):
            data = self.any(part, depth + 1)
            ends, _ = derivatives.walk(plain, data, 0)
            if len(data) in ends:
                return data
        raise DeadEndError

    def in_any_order(self, expression: AnyOrder, depth: int) -> bytes:
        random = self.random
        chosen: list[Expression] = []
        for member in expression.members:
            top = member.minimum + 2 if member.maximum is None else member.maximum
            count = member.minimum if depth > 6 * self.size else random.randint(member.minimum, top)
            chosen += [member.item] * count
        if len(chosen) < expression.minimum or (expression.maximum is not None and len(chosen) > expression.maximum):
            raise DeadEndError
        random.shuffle(chosen)
        parts: list[bytes] = []
        for index, item in enumerate(chosen):
            parts += [self.any(expression.separator, depth + 1)] if index else []
            parts.append(self.any(item, depth + 1))
        return b"".join(parts)

    def walk(self, edges, accepting) -> bytes:
        state, data = 0, b""
        for _ in range(200):
            if state in accepting and (not edges[state] or self.random.random() < 0.4):
                return data
            low, high, state = self.pick(edges[state])
            data += bytes([self.random.randint(low, high)])
        raise DeadEndError


def samples(grammar: Grammar, seed: int, count: int) -> list[bytes]:
    """Some strings of the grammar, each of them checked by the naive matcher."""
    random = Random(seed)
    found = [sample(grammar, random) for _ in range(count)]
    kept = [data for data in found if data is not None]
    assert all(naive.matches(grammar, data) for data in kept)
    return kept
