"""What the drafters' tests share: asking a state without an engine, and telling it of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import DraftRequest, Verified

FAKE: Any = SimpleNamespace(vocabulary=SimpleNamespace(size=50))
"""A model of which a drafter needs no more than the size of its vocabulary."""


def propose(state: Any, tokens: Sequence[int], limit: int = 63) -> DraftTree:
    tree = state.propose(DraftRequest(list(tokens), limit, None))  # type: ignore[arg-type]
    check(tree, limit)
    return tree  # type: ignore[no-any-return]


def check(tree: DraftTree, limit: int) -> None:
    """What every tree must be."""
    assert len(tree) <= limit
    assert len(tree.tokens) == len(tree.parents) == len(tree.probabilities)
    assert len(set(zip(tree.parents, tree.tokens, strict=True))) == len(tree), "children of one parent differ"
    for node, parent in enumerate(tree.parents):
        assert -1 <= parent < node
        assert 0 < tree.probabilities[node] <= (tree.probabilities[parent] if parent >= 0 else 1.0) + 1e-12


def paths(tree: DraftTree) -> list[tuple[int, ...]]:
    """The tokens from the root to each node."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


def verified(text: Sequence[int], logits: torch.Tensor) -> Verified:
    """A pass of the text's last token alone."""
    return Verified(list(text), [text[-1]], (-1,), logits, [0])
