"""What the KV stores of earlier prompts held, for later prompts that begin alike.

Sound for every policy: a prompt is read in chunks that begin at multiples of the chunk's size, so that the state after
a whole chunk depends on the tokens up to there alone; what lies between is used only by the very same prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from tokloom.kv.store import KVStore

REMEMBERED = 64
"""Prompts whose tokens are kept to find out where others part from them."""


class Snapshot(NamedTuple):
    """A store after some tokens, and the logits (vocabulary,) after the last of them."""

    tokens: tuple[int, ...]
    store: KVStore
    logits: torch.Tensor

    @property
    def bytes(self) -> int:
        return self.store.bytes + self.logits.nbytes


class PrefixCache:
    """Snapshots of one engine, of at most `limit` bytes; the ones used longest ago leave first. A `key` stands for what
    tells stores of an engine apart: the model, the precision, the size of chunks."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._snapshots: dict[tuple[Any, ...], Snapshot] = {}  # by key and tokens, the latest used at the end
        self._prompts: list[tuple[Any, tuple[int, ...]]] = []
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Of all snapshots."""
        with self._lock:
            return sum(snapshot.bytes for snapshot in self._snapshots.values())

    def find(self, key: Any, tokens: Sequence[int], chunk: int) -> Snapshot | None:
        """The longest snapshot that a prompt may begin with."""
        whole = tuple(tokens)
        with self._lock:
            usable = [
                place
                for place, snapshot in self._snapshots.items()
                if place[0] == key
                and whole[: len(snapshot.tokens)] == snapshot.tokens
                and (len(snapshot.tokens) % chunk == 0 or len(snapshot.tokens) == len(whole))
            ]
            if not usable:
                return None
            best = max(usable, key=lambda place: len(place[1]))
            snapshot = self._snapshots[best] = self._snapshots.pop(best)
            return snapshot

    def plan(self, key: Any, tokens: Sequence[int], chunk: int) -> set[int]:
        """After how many tokens of a prompt a snapshot is worth its bytes: at its end, after its last whole chunk, and
        where it parts from an earlier prompt."""
        whole = tuple(tokens)
        with self._lock:
            lengths = {len(whole), len(whole) // chunk * chunk}
            for other_key, other in self._prompts:
                if other_key == key:
                    lengths.add(_common(whole, other) // chunk * chunk)
            self._prompts = [*self._prompts[1 - REMEMBERED :], (key, whole)]
        return lengths - {0}

    def put(self, key: Any, tokens: Sequence[int], store: KVStore, logits: torch.Tensor) -> None:
        """Keeps the state of a store after these tokens, if it fits."""
        snapshot = Snapshot(tuple(tokens), store.fork(), logits.clone())
        with self._lock:
            self._snapshots[key, snapshot.tokens] = snapshot
            held = sum(each.bytes for each in self._snapshots.values())
            for place in list(self._snapshots):
                if held <= self.limit:
                    break
                held -= self._snapshots.pop(place).bytes


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of what both begin with."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
