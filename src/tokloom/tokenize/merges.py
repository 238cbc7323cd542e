"""Byte-pair encoding looked at backwards: which token can stand after which inside one piece of text.

The tokenizer merges neighbours, the pair of lowest rank first. Two tokens stay apart exactly if, while both are being
merged from their parts, no pair across the border between them is ever the next to be merged. At any time the parts at
the border are on the right spine of the one's merge tree and on the left spine of the other's, so that spines are all
that has to be looked at; and a sequence of tokens is the tokenizer's own exactly if each pair of neighbours is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np

NONE = -1


class Merges:
    """The merge trees of a vocabulary.

    Args:
        tokens: ids by text, in the alphabet that the merges are written in.
        merges: pairs of such texts, by rank.
        characters: ids of the tokens that merging begins with.
        size: ids are [0, size).

    A merge's time is its rank, or the later one of its parts' if a part comes into being only after that rank, as
    happens in SentencePiece's vocabularies.

    Attributes:
        left, right: (size,) the parts that the tokenizer makes a token of, -1 for a single character.
        formed: (size,) the time at which it does; -1 for a single character, infinite if it never makes this token.
    """

    def __init__(
        self, tokens: Mapping[str, int], merges: Sequence[tuple[str, str]], characters: Iterable[int], size: int
    ) -> None:
        self.size = size
        self.left = np.full(size, NONE)
        self.right = np.full(size, NONE)
        self.formed = np.full(size, math.inf)
        self._left: list[int] = [NONE] * size
        self._right: list[int] = [NONE] * size
        self._formed: list[float] = [math.inf] * size
        self._ranks: dict[int, dict[int, int]] = defaultdict(dict)  # left part, right part
        made: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for token in characters:
            self._formed[token] = -1
        for rank, (a, b) in enumerate(merges):
            left, right = tokens[a], tokens[b]
            self._ranks[left].setdefault(right, rank)
            made[a + b].append((left, right))
        for text in sorted(made, key=len):  # parts before what is made of them
            self._form(tokens[text], made[text])
        self.left[:], self.right[:], self.formed[:] = self._left, self._right, self._formed
        self.followers = lru_cache(maxsize=1024)(self._followers)

    def _form(self, token: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Finds the pair that the tokenizer makes this token of: the one that no merge across its border precedes."""
        if self._formed[token] < math.inf:
            return
        for a, b in pairs:
            time = self._time(a, b)
            if time < math.inf and not self._crossed(a, b):
                self._left[token], self._right[token], self._formed[token] = a, b, time
                return

    def _time(self, a: int, b: int) -> float:
        """When two neighbours merge, infinite if they never do."""
        rank = self._ranks[a].get(b) if a in self._ranks else None
        return math.inf if rank is None else max(rank, self._formed[a], self._formed[b])

    def _crossed(self, a: int, b: int) -> bool:
        """Whether parts of the two merge across the border before both are whole."""
        starts = list(self._spine(b, self._left))
        for u, until_u in self._spine(a, self._right):
            ranks = self._ranks.get(u, {})
            for v, until_v in starts:
                if v in ranks and (u, v) != (a, b):
                    time = self._time(u, v)
                    # Of equal pairs the left one merges first.
                    if time < until_u and time <= until_v:
                        return True
        return False

    def _spine(self, token: int, child: Sequence[int]) -> Iterator[tuple[int, float]]:
        """A token and its outermost parts on one side, each with the time at which it becomes part of the next."""
        until = math.inf
        while token != NONE:
            yield token, until
            until, token = self._formed[token], child[token]

    @cached_property
    def reachable(self) -> np.ndarray:
        """bool (size,): tokens that the tokenizer makes of their own text."""
        found: np.ndarray = self.formed < math.inf
        return found

    @cached_property
    def _starts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The left spines of all tokens: a part, until when it stands, and the token that it begins."""
        parts, untils, owners = [], [], []
        owner = np.flatnonzero(self.reachable)
        part, until = owner, np.full(len(owner), math.inf)
        while len(owner):
            parts.append(part)
            untils.append(until)
            owners.append(owner)
            deeper = self.left[part] != NONE
            owner, until, part = owner[deeper], self.formed[part][deeper], self.left[part][deeper]
        return np.concatenate(parts), np.concatenate(untils), np.concatenate(owners)

    @cached_property
    def _after(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The merges sorted by their left part: offsets by left part, right parts, times."""
        table = [(u, v, rank) for u, after in self._ranks.items() for v, rank in after.items()]
        u, v, rank = np.array(sorted(table), dtype=np.int64).reshape(-1, 3).T
        times = np.maximum(rank, np.maximum(self.formed[u], self.formed[v]))
        return np.searchsorted(u, np.arange(self.size + 1)), v, times

    def _followers(self, token: int) -> np.ndarray:
        """bool (size,): tokens that can stand after `token` in the same piece of text. Not to be written to."""
        offsets, rights, times = self._after
        earliest = np.full(self.size, math.inf)
        for u, until in self._spine(token, self._right):
            merges = slice(offsets[u], offsets[u + 1])
            soon = times[merges] < until
            v = rights[merges][soon]
            earliest[v] = np.minimum(earliest[v], times[merges][soon])
        parts, untils, owners = self._starts
        time = earliest[parts]
        allowed = self.reachable.copy()
        allowed[owners[(time < math.inf) & (time <= untils)]] = False
        return allowed
