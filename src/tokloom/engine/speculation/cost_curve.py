"""How long a forward pass takes by its number of rows, measured on the machine at hand.

The curve decides how many drafted tokens are worth verifying in one pass. It is measured once a
model, precision, device, instruction set and number of threads, and kept in the user's cache directory.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokloom._core import kernels
from tokloom.artifacts import Arrays, Artifact
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import Step

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

CURVE = Artifact("cost curve", version=1, folder="cost_curves")
WIDTHS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
ROUNDS = 3
CONTEXT = 64


@dataclass(frozen=True)
class CostCurve:
    """Seconds of a pass of each width in rows; between two widths the line through them."""

    seconds: dict[int, float]

    def relative(self, rows: int) -> float:
        """Cost of a pass of `rows` rows, in passes of one row."""
        widths = sorted(self.seconds)
        below = max((w for w in widths if w <= rows), default=widths[0])
        above = min((w for w in widths if w >= rows), default=widths[-1])
        low, high = self.seconds[below], self.seconds[above]
        if above == below:
            value = low * max(1.0, rows / below)
        else:
            value = low + (high - low) * (rows - below) / (above - below)
        return value / self.seconds[widths[0]]


class LiveCurve:
    """A curve that follows what passes really take: measured on a busy machine, or for another length of text, it
    heals.

    A pass is compared with the passes of one row around it, so that neither the text's length nor a machine that is
    slow today counts. A width's time is the low quartile of those seen; widths that were not seen are moved with their
    nearest neighbour that was.

    table: cost of 0, 1, ... rows in passes of one row, never falling; 0 rows cost nothing.
    cheapest: what one more row costs at least, wherever on the curve.
    """

    KEPT = 24
    """Passes of each width that are remembered."""
    MINIMUM = 6
    """Passes of a width that say something."""
    FRESH = 256
    """Passes after which one of a single row is too long ago to compare with."""

    def __init__(self, curve: CostCurve, key: Mapping[str, object] | None = None) -> None:
        """key: under which the curve is kept in the cache directory; None is not kept."""
        self.curve, self.key = curve, key
        self._plain: deque[tuple[int, float]] = deque(maxlen=self.KEPT)
        self._seen: dict[int, deque[float]] = {}
        self._count = self._changed = 0
        self._saved = curve
        self._tabulate()

    def fork(self) -> LiveCurve:
        """The same curve for passes that are done in another way; it is not saved."""
        return LiveCurve(self.curve)

    def note(self, rows: int, seconds: float) -> None:
        """A pass of so many rows took so long."""
        self._count += 1
        if rows == 1:
            self._plain.append((self._count, seconds))
            return
        recent = [each for count, each in self._plain if self._count - count < self.FRESH]
        if len(recent) < self.MINIMUM or rows >= len(self.table):
            return
        width = min(self.curve.seconds, key=lambda known: (abs(known - rows), known))
        if width == 1:
            return
        # rows that lie between two widths tell of the nearer one
        moved = seconds / _quartile(recent) - self.curve.relative(rows) + self.curve.relative(width)
        seen = self._seen.setdefault(width, deque(maxlen=self.KEPT))
        seen.append(moved)
        self._changed += 1
        if len(seen) >= self.MINIMUM and self._changed % 4 == 0:
            self._heal()

    def _heal(self) -> None:
        """Moves the curve to what was seen."""
        known = self.curve.seconds
        one = known[min(known)]
        factors = {
            width: max(0.02, _quartile(seen) - 1) / max(0.02, known[width] / one - 1)
            for width, seen in self._seen.items()
            if len(seen) >= self.MINIMUM
        }
        if all(abs(factor - 1) < 0.05 for factor in factors.values()):
            return
        moved: dict[int, float] = {}
        for width in sorted(known):
            factor = factors[min(factors, key=lambda seen: abs(math.log(seen / width)))] if width > min(known) else 1.0
            moved[width] = max(one, one * (1 + factor * (known[width] / one - 1)))
        self.curve = CostCurve(moved)
        self._seen = {width: seen for width, seen in self._seen.items() if width in factors}
        self._tabulate()

    def _tabulate(self) -> None:
        widest = max(self.curve.seconds)
        # times are only ever too long: a pass takes no more than a wider one was seen to
        falling = accumulate((self.curve.relative(rows) for rows in range(widest, 0, -1)), min)
        self.table: tuple[float, ...] = (0.0, *(max(1.0, cost) for cost in reversed(list(falling))))
        self.cheapest = min((after - before for before, after in pairwise(self.table[1:])), default=math.inf)

    def save(self) -> None:
        """Keeps the curve in the cache directory if it has moved by more than a tenth."""
        if self.key is None or self.curve is self._saved:
            return
        old, new = self._saved, self.curve
        if any(abs(new.relative(width) / old.relative(width) - 1) > 0.1 for width in new.seconds):
            CURVE.keep(self.key, _arrays(new))
            self._saved = new


def _arrays(curve: CostCurve) -> Arrays:
    return {"widths": np.array(list(curve.seconds)), "seconds": np.array(list(curve.seconds.values()))}


def _curve(arrays: Arrays) -> CostCurve:
    return CostCurve(dict(zip(arrays["widths"].tolist(), arrays["seconds"].tolist(), strict=True)))


def _quartile(times: Iterable[float]) -> float:
    ordered = sorted(times)
    return ordered[len(ordered) // 4]


def measure(model: LanguageModel) -> CostCurve:
    """Times passes of every width in interleaved rounds; the fastest of each counts."""
    store = new_store(model, AttentionPolicy(), CONTEXT + WIDTHS[-1])
    tokens = [i % model.vocabulary.size for i in range(CONTEXT)]
    for _ in prefill(model, store, tokens, CONTEXT):
        pass
    seconds = dict.fromkeys(WIDTHS, float("inf"))
    for _ in range(ROUNDS):
        for width in WIDTHS:
            parents = (-1,) * width  # a tree without a path: nothing of it has to stay
            step = Step((CONTEXT,) * width, model.device, parents=parents)
            start = time.perf_counter()
            forward(model, store, tokens[:1] * width, step, all_logits=True)
            seconds[width] = min(seconds[width], time.perf_counter() - start)
            store.accept([])
    return CostCurve(seconds)


def load_or_measure(model: LanguageModel) -> LiveCurve:
    """The curve of this model on this machine, from the cache directory if it was measured before."""
    parameters = sum(p.numel() for p in model.model.parameters())
    key = {
        "model": type(model.model).__name__, "parameters": parameters, "precision": str(model.dtype),
        "weights": model.weights, "device": str(model.device), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "kernels": kernels(), "widths": WIDTHS,
    }  # fmt: skip
    return LiveCurve(_curve(CURVE.cached(key, lambda: _arrays(measure(model)))), key)
