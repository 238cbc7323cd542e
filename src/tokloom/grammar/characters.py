"""Sets of characters, as inclusive ranges of code points, ascending, disjoint and not adjacent."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cache
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
ALL: Ranges = ((0, LAST),)


def ranges(*parts: str | tuple[int, int]) -> Ranges:
    """The set of the characters of strings and of ranges; in any order, overlaps allowed."""
    pairs: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, str):
            pairs.extend((ord(char), ord(char)) for char in part)
        else:
            pairs.append(part)
    return normal(pairs)


def normal(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Sorts ranges and joins those that overlap or touch."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def union(*sets: Ranges) -> Ranges:
    return normal(pair for ranges_ in sets for pair in ranges_)


def complement(chars: Ranges) -> Ranges:
    """All other code points."""
    gaps, start = [], 0
    for first, last in chars:
        if start < first:
            gaps.append((start, first - 1))
        start = last + 1
    if start <= LAST:
        gaps.append((start, LAST))
    return tuple(gaps)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    common, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first <= last:
            common.append((first, last))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(common)


def difference(left: Ranges, right: Ranges) -> Ranges:
    return intersection(left, complement(right))


def contains(chars: Ranges, code: int) -> bool:
    place = bisect_right(chars, (code, LAST)) - 1
    return place >= 0 and chars[place][0] <= code <= chars[place][1]


def minterms(sets: Iterable[Ranges]) -> list[Ranges]:
    """The coarsest partition of all characters in which each of the sets is a union of parts."""
    parts = [ALL]
    for chars in dict.fromkeys(sets):
        halves = [half for part in parts for half in (intersection(part, chars), difference(part, chars))]
        parts = [half for half in halves if half]
    return parts


@cache
def _variants() -> dict[int, tuple[int, ...]]:
    """For every character that has one, the others that differ from it in case only (one to one)."""
    groups: dict[str, set[int]] = {}
    for code in range(0x1E944):  # beyond the last cased letter (Adlam)
        char = chr(code)
        folded = char.casefold()
        if len(folded) > 1:
            folded = char.lower()
        upper = char.upper()
        if folded == char and upper == char:
            continue
        groups.setdefault(folded, set()).add(code)
        if len(folded) == 1:
            groups[folded].add(ord(folded))
        if len(upper) == 1 and upper.lower() == folded:
            groups[folded].add(ord(upper))
    return {code: tuple(sorted(group - {code})) for group in groups.values() if len(group) > 1 for code in group}


def fold_case(chars: Ranges, *, ascii_only: bool = False) -> Ranges:
    """The set with all characters that differ from one of its own in case only.

    ascii_only: only A to Z and a to z have a case.
    """
    found: list[tuple[int, int]] = list(chars)
    if ascii_only:
        for offset, letters in ((32, ((65, 90),)), (-32, ((97, 122),))):
            found.extend((first + offset, last + offset) for first, last in intersection(chars, letters))
        return normal(found)
    for code, others in _variants().items():
        if contains(chars, code):
            found.extend((other, other) for other in others)
    return normal(found)
