"""What one forward pass is to the attention: its rows, where they stand in the text, who sees whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch


@dataclass
class Step:
    """One forward pass: its rows, their text positions, and for a draft tree who descends from whom.

    positions: text position of each row; the first row's is the number of tokens seen before.
    parents: for a tree, the parent row of each row (-1 for the root, row 0), parents first.
    prompt: the pass belongs to the prompt.
    skipped: how many of the first rows need no logits.
    """

    positions: tuple[int, ...]
    device: torch.device
    parents: tuple[int, ...] | None = None
    prompt: bool = False
    skipped: int = 0
    masks: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """Masks that layers in the same state share."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What layers tell later layers of the same pass, by a name of the policy's own."""
    _pairs: dict[int | None, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = len(self.positions)

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """(rows,) int64."""
        return torch.tensor(self.positions, dtype=torch.long, device=self.device)

    @cached_property
    def row_positions(self) -> torch.Tensor:
        """(rows,) int32, as the core takes them."""
        return torch.tensor(self.positions, dtype=torch.int32)

    @cached_property
    def own(self) -> torch.Tensor:
        """Which row sees which: bool (rows, rows); [i, j] set iff j is i or an ancestor of i in the
        tree, or without a tree iff j <= i."""
        if self.parents is None:
            return torch.ones(self.rows, self.rows, dtype=torch.bool, device=self.device).tril()
        seen = torch.eye(self.rows, dtype=torch.bool)
        for row, parent in enumerate(self.parents):
            if parent >= 0:
                seen[row] |= seen[parent]
        return seen.to(self.device)

    def pairs(self, window: int | None) -> int:
        """Pairs of a row and a token that causal attention computes in this pass, per KV head."""
        if window not in self._pairs:
            self._pairs[window] = sum(p + 1 if window is None else min(p + 1, window) for p in self.positions)
        return self._pairs[window]

    @cached_property
    def own_pairs(self) -> int:
        """Of these, the pairs within the pass."""
        return sum(position - self.positions[0] + 1 for position in self.positions)
