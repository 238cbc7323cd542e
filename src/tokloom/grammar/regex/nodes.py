"""A regular expression as a tree, before its assertions are worked into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, Union

from tokloom.grammar.characters import Ranges, complement, intersection, union

Node: TypeAlias = Union["Set", "Edge", "Sequence", "Choice", "Loop", "Look", "Cut", "Meet", "Minus"]


@dataclass(frozen=True, slots=True)
class Set:
    """One character out of a set."""

    chars: Ranges


@dataclass(frozen=True, slots=True)
class Edge:
    """Empty; holds where the character before (or else after) is in `chars`, or is not there and `end` says so.

    `^` is Edge(before, (), end=True); everything else that looks at one character only is made of these.
    """

    before: bool
    chars: Ranges
    end: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """`minimum` to `maximum` times. `place` is the offset of the quantifier in the pattern, for errors."""

    item: Node
    minimum: int
    maximum: int | None
    place: int


@dataclass(frozen=True, slots=True)
class Look:
    """Empty; holds where the text from here on begins with `item`, or does not."""

    item: Node
    negative: bool
    place: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A possessive loop over single characters: it takes as many as there are."""

    loop: Loop


@dataclass(frozen=True, slots=True)
class Meet:
    """In both."""

    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Minus:
    """In `item`, not in `removed`."""

    item: Node
    removed: Node


EMPTY = Sequence(())
START = Edge(before=True, chars=(), end=True)
END = Edge(before=False, chars=(), end=True)


def sequence(*items: Node) -> Node:
    """One after the other, flat; an edge beside the very character that it looks at becomes part of that."""
    flat: list[Node] = []
    for item in items:
        for part in item.items if isinstance(item, Sequence) else (item,):
            last = flat[-1] if flat else None
            match (last, part):
                case (Edge(False, seen), Set(chars)) | (Set(chars), Edge(True, seen)):
                    flat[-1] = Set(intersection(chars, seen))
                case _:
                    flat.append(part)
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Sequence(items) | Choice(items):
            return items
        case Loop(item=item) | Look(item=item) | Cut(item):
            return (item,)
        case Meet(left, right):
            return (left, right)
        case Minus(item, removed):
            return (item, removed)
        case _:
            return ()


def one_character(node: Node, *, before: bool) -> Edge | None:
    """The edge that says the same as looking for `node`, if that is one character or an end of the text."""
    if isinstance(node, Set):
        return Edge(before, node.chars, end=False)
    if isinstance(node, Edge) and node.before == before and not node.chars and node.end:
        return node
    if isinstance(node, Choice):
        edges = [one_character(item, before=before) for item in node.items]
        if all(edge is not None for edge in edges):
            found = [edge for edge in edges if edge is not None]
            return Edge(before, union(*(e.chars for e in found)), any(e.end for e in found))
    return None


def look(item: Node, negative: bool, place: int) -> Node:
    """A lookahead; an edge if one character decides it."""
    edge = one_character(item, before=False)
    if edge is None:
        return Look(item, negative, place)
    return Edge(False, complement(edge.chars), not edge.end) if negative else edge
