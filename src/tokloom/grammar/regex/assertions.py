"""Works the assertions of a regular expression into plain expressions, exactly.

Two steps. `resolve` turns lookaheads into intersections and differences of the rest of the text, which needs them
on the way from the start of the pattern to its end, outside loops. `Translation` then builds the expression of
every node for what stands before and after it (a character, or the end of the text), and splits a sequence by the
characters at a seam if an edge looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

from tokloom.errors import GrammarError
from tokloom.grammar.characters import ALL, LAST, Ranges, complement, contains, minterms
from tokloom.grammar.expression import EMPTY as EMPTY_STRING
from tokloom.grammar.expression import NOTHING, Both, Chars, Concat, Either, Except, Expression, Repeat, text
from tokloom.grammar.regex import nodes
from tokloom.grammar.regex.nodes import (
    Choice,
    Cut,
    Edge,
    Look,
    Loop,
    Meet,
    Minus,
    Node,
    Sequence,
    Set,
    children,
    sequence,
)
from tokloom.grammar.regex.restrict import beginning, ending
from tokloom.grammar.simplify import both, concat, either, nullable, repeat, without

ANYTHING = Loop(Set(ALL), 0, None, 0)
LARGEST = 4_000
"""Nodes that a pattern may grow to when its assertions are worked in, or eight times what it has itself if that is
more. Assertions that multiply each other would take forever otherwise."""
_OUTSIDE = -1  # stands before the first character and behind the last
_UNROLLED = 3


def _has(node: Node, *kinds: type[Node]) -> bool:
    return isinstance(node, kinds) or any(_has(child, *kinds) for child in children(node))


def resolve(items: Items[Node]) -> Node:
    """A node for the sequence of `items`, which reaches to the end of the text, without lookaheads.

    Raises:
        GrammarError: a lookahead stands where this is not possible.
    """
    tail: Node = nodes.EMPTY
    for item in reversed(items):
        tail = _before(item, tail)
    return tail


def _before(item: Node, tail: Node) -> Node:
    if item == nodes.END and tail == ANYTHING:
        return item
    if not _has(item, Look, Cut):
        return sequence(item, tail)
    match item:
        case Look(inner, negative):
            found = resolve((inner, ANYTHING))
            if tail == nodes.EMPTY and not _may_be_empty(found):
                return tail if negative else Choice(())
            if tail == ANYTHING and not negative:
                return found
            return Minus(tail, found) if negative else Meet(tail, found)
        case Cut(Loop(Set(chars), minimum, maximum) as loop):
            stop = Edge(before=False, chars=complement(chars), end=True)
            if maximum is None:
                return sequence(loop, stop, tail)
            ways = [sequence(Loop(Set(chars), maximum, maximum, loop.place), tail)]
            if maximum > minimum:
                ways.append(sequence(Loop(Set(chars), minimum, maximum - 1, loop.place), stop, tail))
            return Choice(tuple(ways))
        case Sequence(inner_items):
            for inner in reversed(inner_items):
                tail = _before(inner, tail)
            return tail
        case Choice(options):
            plain = tuple(option for option in options if not _has(option, Look, Cut))
            looking = tuple(_before(option, tail) for option in options if _has(option, Look, Cut))
            return Choice((*((sequence(Choice(plain), tail),) if plain else ()), *looking))
        case Loop(inner, minimum, maximum, place):
            tempered = _tempered(inner, minimum, maximum, place)
            if tempered is not None and not _takes_characters(tail):
                return sequence(tempered, tail)
            if maximum is not None and maximum <= _UNROLLED:
                ways = [tail]
                for _ in range(maximum):
                    ways.append(_before(inner, ways[-1]))
                return Choice(tuple(ways[minimum:]))
            raise GrammarError(
                f"character {place + 1}",
                "a lookahead or possessive quantifier inside a loop is not supported",
                "Lookaheads may stand outside loops, and in (?:(?!...)C)* at the end of the pattern.",
            )
    raise AssertionError(item)


def _tempered(inner: Node, minimum: int, maximum: int | None, place: int) -> Node | None:
    """`(?:(?!x)C)*`, where it ends the text: characters of C with x nowhere among them."""
    match inner:
        case Sequence((Look(item, True), Set() as chars)):
            found = Meet(resolve((item, ANYTHING)), Loop(Set(ALL), 1, None, place))
            return Minus(Loop(chars, minimum, maximum, place), sequence(Loop(chars, 0, None, place), found))
    return None


def _takes_characters(node: Node) -> bool:
    return not isinstance(node, Edge) and (
        isinstance(node, Set | Loop | Cut | Meet | Minus) or any(_takes_characters(child) for child in children(node))
    )


def too_large() -> GrammarError:
    return GrammarError(
        "character 1",
        "the assertions of this pattern multiply each other beyond what is supported",
        r"Use fewer of ^, $, \b and lookarounds, or put them at the pattern's ends.",
    )


def size(node: Node, known: dict[int, int] | None = None) -> int:
    """Nodes below and with this one, shared ones as often as they occur."""
    known = {} if known is None else known
    if id(node) not in known:
        known[id(node)] = 1 + sum(size(child, known) for child in children(node))
    return known[id(node)]


def _parts(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Concat(items) | Either(items) | Both(items):
            return items
        case Repeat(item):
            return (item,)
        case Except(item, removed):
            return (item, removed)
    return ()


class Translation:
    """Expressions of nodes. Keeps those with edges, by what stands around them.

    limit: nodes that any expression may have, written out; GrammarError beyond.
    """

    def __init__(self, limit: int = LARGEST) -> None:
        self._limit = limit
        self._work = 0
        self._sizes: dict[int, int] = {}
        self._known: dict[tuple[int, int, int], Expression] = {}
        self._plain: dict[int, Expression] = {}
        self._kept: list[Node] = []  # so that ids stay theirs
        self._alive: list[Expression] = []

    def whole(self, node: Node) -> Expression:
        """The expression of a node that is the whole text."""
        return self._of(node, _OUTSIDE, _OUTSIDE)

    def _of(self, node: Node, before: int, after: int) -> Expression:
        """before, after: the characters around, or _OUTSIDE."""
        looks_before, looks_after = _has_edge(node, before=True), _has_edge(node, before=False)
        key = (id(node), before if looks_before else _OUTSIDE, after if looks_after else _OUTSIDE)
        if key not in self._known:
            self._kept.append(node)
            self._known[key] = self._measured(self._build(node, before, after))
        return self._known[key]

    def _measured(self, expression: Expression) -> Expression:
        size = self._size(expression)
        self._work += size
        if size > self._limit or self._work > 20 * self._limit:
            raise too_large()
        return expression

    def _size(self, expression: Expression) -> int:
        """Nodes of the expression, shared ones as often as they occur."""
        parts = _parts(expression)
        if not parts:
            return 1
        key = id(expression)
        if key not in self._sizes:
            self._sizes[key] = 1 + sum(map(self._size, parts))
            self._alive.append(expression)
        return self._sizes[key]

    def _build(self, node: Node, before: int, after: int) -> Expression:
        match node:
            case Set(chars):
                if not chars:
                    return NOTHING
                first, last = chars[0]
                if len(chars) == 1 and first == last:
                    return NOTHING if 0xD800 <= first <= 0xDFFF else text(chr(first))
                return Chars(chars)
            case Edge(is_before, chars, end):
                around = before if is_before else after
                return EMPTY_STRING if (end if around == _OUTSIDE else contains(chars, around)) else NOTHING
            case Choice(items):
                return either(*(self._of(item, before, after) for item in items))
            case Meet(left, right):
                return both(self._of(left, before, after), self._of(right, before, after))
            case Minus(item, removed):
                return without(self._of(item, before, after), self._of(removed, before, after))
            case Loop():
                return self._loop(node, before, after)
            case Sequence(items):
                return self._sequence(items, before, after)
        raise AssertionError(node)

    # --- sequences

    def _sequence(self, items: tuple[Node, ...], before: int, after: int) -> Expression:
        if not any(_has(item, Edge) for item in items):
            return concat(*(self._of(item, before, after) for item in items))
        if len(items) <= 1:
            return self._of(items[0], before, after) if items else EMPTY_STRING
        # what has no edges goes together, so that a long pattern is split at few seams
        cut = 1
        while cut < len(items) - 1 and not _has(items[cut - 1], Edge) and not _has(items[cut], Edge):
            cut += 1
        left: Node = items[0] if cut == 1 else self._part(items, 0, cut)
        right: Node = items[-1] if cut == len(items) - 1 else self._part(items, cut, len(items))
        return self._seam(left, right, before, after)

    def _part(self, items: tuple[Node, ...], start: int, end: int) -> Node:
        part = Sequence(items[start:end])
        self._kept.append(part)
        return part

    def _seam(self, left: Node, right: Node, before: int, after: int) -> Expression:
        looking_back = _seam_sets(right, before=True)
        looking_on = _seam_sets(left, before=False)
        if not looking_back and not looking_on:
            inner = 0
            return concat(self._of(left, before, inner), self._of(right, inner, after))
        lasts, firsts = minterms(looking_back), minterms(looking_on)
        ways: list[Expression] = []
        if not looking_on:
            left_part = self._of(left, before, _OUTSIDE)
            if nullable(left_part):
                ways.append(self._of(right, before, after))
            for last in lasts:
                ways.append(concat(ending(left_part, last), self._of(right, _sample(last), after)))
            return either(*(way for way in ways if way != NOTHING))
        for first in firsts:  # the character behind the seam, if `right` has one
            on = _sample(first)
            left_part = self._of(left, before, on)
            if left_part == NOTHING:
                continue
            if not looking_back:
                ways.append(concat(left_part, beginning(self._of(right, _OUTSIDE, after), first)))
                continue
            if nullable(left_part):
                ways.append(beginning(self._of(right, before, after), first))
            for last in lasts:
                back = _sample(last)
                right_part = beginning(self._of(right, back, after), first)
                ways.append(concat(ending(left_part, last), right_part))
        # `right` empty
        left_part = self._of(left, before, after)
        if not looking_back:
            if nullable(self._of(right, _OUTSIDE, after)):
                ways.append(left_part)
            return either(*(way for way in ways if way != NOTHING))
        if nullable(left_part) and nullable(self._of(right, before, after)):
            ways.append(EMPTY_STRING)
        for last in lasts:
            if nullable(self._of(right, _sample(last), after)):
                ways.append(ending(left_part, last))
        return either(*(way for way in ways if way != NOTHING))

    # --- loops

    def _loop(self, loop: Loop, before: int, after: int) -> Expression:
        item, minimum, maximum = loop.item, loop.minimum, loop.maximum
        if not _has(item, Edge):
            return repeat(self._of(item, before, after), minimum, maximum)
        if isinstance(item, Edge):
            return self._of(item, before, after) if minimum else EMPTY_STRING
        if maximum is not None and maximum <= _UNROLLED:
            ways = []
            for count in range(minimum, maximum + 1):
                unrolled = self._part((item,) * count, 0, count)
                ways.append(self._of(unrolled, before, after))
            return either(*ways)
        inner = 0
        contexts = [(b, a) for b in (before, inner) for a in (after, inner)]
        if _outer_edges_only(item) and not any(nullable(self._of(item, *context)) for context in contexts):
            ways = [EMPTY_STRING] if minimum == 0 else []
            if minimum <= 1:
                ways.append(self._of(item, before, after))
            middle = repeat(self._of(item, inner, inner), max(minimum - 2, 0), None if maximum is None else maximum - 2)
            ways.append(concat(self._of(item, before, inner), middle, self._of(item, inner, after)))
            return either(*(way for way in ways if way != NOTHING))
        raise GrammarError(
            f"character {loop.place + 1}",
            "an assertion inside this loop is not supported",
            r"Move ^, $, \b and lookarounds out of it.",
        )


def _has_edge(node: Node, *, before: bool) -> bool:
    if isinstance(node, Edge):
        return node.before == before
    return any(_has_edge(child, before=before) for child in children(node))


def _outer_edges_only(node: Node) -> bool:
    """Whether all its edges ask for an end of the text, and for no character."""
    return (not node.chars and node.end) if isinstance(node, Edge) else all(map(_outer_edges_only, children(node)))


def _may_be_empty(node: Node) -> bool:
    match node:
        case Set():
            return False
        case Sequence(items):
            return all(map(_may_be_empty, items))
        case Choice(items):
            return any(map(_may_be_empty, items))
        case Loop(item, minimum, _, _):
            return minimum == 0 or _may_be_empty(item)
        case Meet(left, right):
            return _may_be_empty(left) and _may_be_empty(right)
        case Minus(item, _):
            return _may_be_empty(item)
        case _:
            return True


def _seam_sets(node: Node, *, before: bool) -> list[Ranges]:
    """The sets of the edges that may look over the node's start (or end)."""
    match node:
        case Edge(is_before, chars, _):
            return [chars] if is_before == before else []
        case Sequence(items):
            found = []
            for item in items if before else items[::-1]:
                found += _seam_sets(item, before=before)
                if not _may_be_empty(item):
                    break
            return found
        case _:
            return [chars for child in children(node) for chars in _seam_sets(child, before=before)]


def _sample(chars: Ranges) -> int:
    return min(chars[0][0], LAST)
