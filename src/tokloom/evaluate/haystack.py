"""Texts with sentences hidden in them: what the needle tasks share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from tokloom.errors import DocumentError

SHIPPED = Path(__file__).parent / "data" / "haystack.txt"
"""100 kB of The Time Machine."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z])")


def read(path: str | None, option: str) -> str:
    """The text of a file, or the shipped one; `option` is the task's, for the error. Raises DocumentError."""
    source = Path(path) if path is not None else SHIPPED
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(str(source), f"can't be read ({error})", f"Check evaluate's option {option}.") from None


def sentences(text: str) -> list[str]:
    """The sentences of a text, white space collapsed."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    parts = (" ".join(text[start:end].split()) for start, end in pairwise(ends))
    return [part for part in parts if part]


def insertion(lengths: Sequence[int], depth: float) -> int:
    """Before which of the sentences of these lengths the needle goes: the border nearest to `depth` of the whole."""
    borders = [0, *accumulate(lengths)]
    return min(range(len(borders)), key=lambda i: abs(borders[i] - depth * borders[-1]))


def hide(
    needles: Sequence[str],
    hay: Sequence[str],
    start: int,
    depths: Sequence[float],
    length: int,
    count: Callable[[str], int],
) -> tuple[str, list[float]] | None:
    """The longest text with the needles in it that has at most `length` tokens, and the depth that each reached.

    Args:
        hay: sentences, taken whole and in order from number `start` on, and from the first one after the last.
        depths: where each needle is wished, as a share of the hay's tokens before it, 0 (first) to 1 (last). Of
            needles at one border the first given comes first.
        count: tokens of a text, with whatever is to stand around it.

    Returns:
        None if not even the needles alone fit.
    """
    empty = count("")
    sizes: list[int] = []  # tokens of the sentences taken; their sum is near the exact count, not equal to it

    def size(i: int) -> int:
        while len(sizes) <= i:
            sizes.append(count(" " + hay[(start + len(sizes)) % len(hay)]) - empty)
        return sizes[i]

    def assemble(taken: int) -> tuple[str, list[float]]:
        lengths = [size(i) for i in range(taken)]
        borders = [insertion(lengths, depth) for depth in depths]
        parts: list[str] = []
        for i in range(taken + 1):
            parts += [needle for needle, border in zip(needles, borders, strict=True) if border == i]
            parts += [hay[(start + i) % len(hay)]] if i < taken else []
        return " ".join(parts), [sum(lengths[:border]) / max(sum(lengths), 1) for border in borders]

    taken, room = 0, length - count(" ".join(needles))
    while room >= size(taken):
        room -= size(taken)
        taken += 1
    while taken >= 0 and count(assemble(taken)[0]) > length:
        taken -= 1
    if taken < 0:
        return None
    while count(assemble(taken + 1)[0]) <= length:
        taken += 1
    return assemble(taken)
