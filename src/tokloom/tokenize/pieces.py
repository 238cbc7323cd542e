"""Where a tokenizer cuts a text before it merges: pieces that no token crosses.

Asked of the tokenizer itself, for stand-ins of the texts at hand: a run of letters of one case is as good as two of
them, so that a few hundred questions tell how all tokens of a vocabulary continue a text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

PROBES = ("", "a", "0", "!", "\n", " a")
"""What may follow white space; a tokenizer may leave the last blank to the next piece."""
SAMPLE = "It's 1,234 o'clock\n\n  and (then) x=y/Z!"

Border = tuple[int, bool]
"""A border between two tokens: its place in bytes, and whether merging alone would leave the two apart."""


class Pieces:
    """The pre-tokenizer of a tokenizer.

    Args:
        backend: of the `tokenizers` library.
        token_bytes: the bytes of each token, b"" for tokens that are not asked about.
    """

    def __init__(self, backend: Any, token_bytes: Sequence[bytes]) -> None:
        self._normalizer, self._pre = backend.normalizer, backend.pre_tokenizer
        self._token_bytes = token_bytes
        self.followers = lru_cache(maxsize=4096)(self._followers)

    @cached_property
    def whole(self) -> bool:
        """The tokenizer does not cut at all."""
        return self.cuts(SAMPLE.encode()) == []

    def cuts(self, data: bytes) -> list[int] | None:
        """Byte offsets inside `data` between its pieces; None if it is not text as the tokenizer writes it."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        if self._pre is None or not text:
            return []
        normal = text if self._normalizer is None else self._normalizer.normalize_str(text)
        if len(normal) != len(text):
            return None
        starts = [start for _, (start, _) in self._pre.pre_tokenize_str(normal)][1:]
        return [len(text[:start].encode()) for start in starts]

    def outcome(self, before: bytes, borders: Sequence[Border], after: bytes) -> tuple[bool, bool, bool]:
        """How tokens that end at `borders` in `before`, and there, can go on with the bytes of one more.

        Returns whether the last border may lie between two pieces, whether inside of one, and whether the first
        holds whatever comes later. Neither: the tokenizer does not write it so.
        """
        data = before + after
        between = inside = False
        forced = True
        for text in continuations(data):
            cuts = self.cuts(text)
            if cuts is None:
                continue
            here = set(cuts)
            ends = {place for place, _ in borders} | {len(before), 0}
            if all(cut in ends or cut >= len(data) for cut in here) and all(
                apart or place in here for place, apart in borders
            ):
                cut = len(before) in here or not before
                between |= cut
                inside |= not cut
                forced &= cut
        return between, inside, between and forced

    def _followers(self, before: bytes, borders: tuple[Border, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Bool (tokens,) twice: tokens that may begin a new piece after `before`, and those that may go on in its last.

        Cached, so that it pays to pass what `stand_in` returns."""
        between = np.zeros(len(self._token_bytes), dtype=bool)
        inside = np.zeros_like(between)
        if is_partial(before):
            for token in self._continuing:
                between[token], inside[token], _ = self.outcome(before, borders, self._token_bytes[token])
            return between, inside
        exact = b"'" in before[-3:]
        groups, members = self._fine if exact else self._coarse
        results = np.array([self.outcome(before, borders, group)[:2] for group in groups] or [(False, False)])
        asked = members >= 0
        between[asked], inside[asked] = results[members[asked]].T
        return between, inside

    @cached_property
    def _continuing(self) -> list[int]:
        """Tokens that begin inside of a character."""
        return [token for token, data in enumerate(self._token_bytes) if data and data[0] & 0xC0 == 0x80]

    @cached_property
    def _coarse(self) -> tuple[list[bytes], np.ndarray]:
        return self._grouped(exact=False)

    @cached_property
    def _fine(self) -> tuple[list[bytes], np.ndarray]:
        return self._grouped(exact=True)

    def _grouped(self, exact: bool) -> tuple[list[bytes], np.ndarray]:
        """Tokens that look alike at their start and end: one of each group, and the group of each token, -1 for
        tokens that don't begin with a character. exact: letters count as what they are."""
        numbers: dict[tuple[object, ...], int] = {}
        groups: list[bytes] = []
        members = np.full(len(self._token_bytes), -1)
        for token, data in enumerate(self._token_bytes):
            if not data or data[0] & 0xC0 == 0x80:
                continue
            text = data.decode("utf-8", "replace")
            kinds = [kind(char, exact and i < 3) for i, char in enumerate(text[:4])]
            lead = data[-partial(data)] if partial(data) else -1
            key = (*kinds, kind(text[-1], False), lead, len(set(text)) == 1 and len(text))
            if key not in numbers:
                numbers[key] = len(groups)
                groups.append(data)
            members[token] = numbers[key]
        return groups, members


def kind(char: str, exact: bool = False) -> str:
    """What a tokenizer's pattern may know a character by."""
    category = unicodedata.category(char)
    if not exact and category in ("Lu", "Ll"):
        return category
    return char if char.isascii() else category


def stand_in(before: bytes, borders: Sequence[Border]) -> tuple[bytes, tuple[Border, ...]]:
    """A shorter text that a tokenizer's pattern takes for the same: runs of letters of one kind become two.

    Borders inside of what is left out go, as nothing is ever cut there."""
    if is_partial(before) or b"'" in before[-3:]:
        return before, tuple(borders)
    marks = dict(borders)
    out = bytearray()
    kept: list[Border] = []
    place, last, run = 0, "", 0
    for char in before.decode():
        place += len(char.encode())
        this = kind(char)
        run = run + 1 if this == last and len(this) == 2 else 1
        last = this
        if run <= 2:
            out += {"Ll": "a", "Lu": "A"}.get(this, char).encode()
            if place in marks:
                kept.append((len(out), marks[place]))
        elif kept and kept[-1][0] == len(out):
            kept.pop()  # the run goes on behind this border
    return bytes(out), tuple(kept)


def partial(data: bytes) -> int:
    """Bytes of an unfinished character at the end, 0 if there is none."""
    for length in range(1, min(4, len(data) + 1)):
        byte = data[-length]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return length if length < needed else 0
        if byte < 0x80:
            return 0
    return 0


def is_partial(data: bytes) -> bool:
    return partial(data) > 0


def continuations(data: bytes) -> list[bytes]:
    """Texts that begin with these bytes, enough to see how the tokenizer may cut them in the end."""
    missing = partial(data)
    if missing:
        first, last = code_points(data[-missing:])
        points = {first, (first + last) // 2, last} if first <= last else set()
        characters = [chr(point) for point in sorted(points) if not 0xD800 <= point < 0xE000]
        return [data[:-missing] + char.encode() for char in characters]
    if data and chr(data[-1]).isspace():
        return [data + probe.encode() for probe in PROBES]
    return [data]


def code_points(start: bytes) -> tuple[int, int]:
    """The first and the last character whose UTF-8 begins with these bytes; an empty range if there is none."""
    byte = start[0]
    if byte < 0x80:
        return byte, byte
    if not 0xC2 <= byte < 0xF5:
        return 0, -1
    length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    value = byte & (0x7F >> length)
    for following in start[1:]:
        if following & 0xC0 != 0x80:
            return 0, -1
        value = value << 6 | following & 0x3F
    left = 6 * (length - len(start))
    lowest = {2: 0x80, 3: 0x800, 4: 0x10000}[length]
    return max(value << left, lowest), min((value + 1 << left) - 1, 0x10FFFF)
