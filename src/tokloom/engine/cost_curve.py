"""How long a forward pass takes by its number of rows, measured on the machine at hand.

The curve decides how many drafted tokens are worth verifying in one pass. It is measured once a
model, precision, device, instruction set and number of threads, and kept in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from tokloom._core import kernels
from tokloom.atomic import write_atomic
from tokloom.attention.dense import Dense
from tokloom.attention.kv_store import Step
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.models.cache import cache_dir

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

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

    @cached_property
    def table(self) -> tuple[float, ...]:
        """`relative` of 0, 1, ... rows, up to the widest that was measured; 0 rows cost nothing."""
        return (0.0, *(self.relative(rows) for rows in range(1, max(self.seconds) + 1)))

    @cached_property
    def cheapest(self) -> float:
        """What one more row costs at least, wherever on the curve, in passes of one row."""
        return max(0.0, min(after - before for before, after in pairwise(self.table[1:])))


def measure(model: LanguageModel) -> CostCurve:
    """Times passes of every width in interleaved rounds; the fastest of each counts."""
    store = new_store(model, Dense(), CONTEXT + WIDTHS[-1])
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


def load_or_measure(model: LanguageModel) -> CostCurve:
    """The curve of this model on this machine, from the cache directory if it was measured before."""
    parameters = sum(p.numel() for p in model.model.parameters())
    identity = [
        type(model.model).__name__, parameters, str(model.dtype), model.weights, str(model.device),
        torch.get_num_threads(), torch.__version__, kernels(), *WIDTHS,
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    path = cache_dir() / "cost_curves" / f"{name}.json"
    if path.is_file():
        try:
            return CostCurve({int(rows): float(s) for rows, s in json.loads(path.read_text())["seconds"].items()})
        except (ValueError, KeyError, AttributeError):
            path.unlink()  # not ours or damaged: measure anew
    curve = measure(model)
    write_atomic(path, json.dumps({"identity": identity, "seconds": curve.seconds}, indent=1))
    return curve
