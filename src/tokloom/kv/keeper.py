"""What a KV store asks of the policy that decides which slots are kept. An `AttentionPolicy` answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

UNLIMITED = 2**30
"""As a number of slots or tokens: there is no bound."""


class Keeper(Protocol):
    """The hooks of `AttentionPolicy` that the store calls; see there for shapes and for when each is called.

    A `layer` is a `KVLayer`, which imports this module.
    """

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> Sequence[str]: ...
    @property
    def plain(self) -> bool: ...
    @property
    def rewinds(self) -> bool: ...
    def max_draft_tokens(self, seen: int) -> int: ...
    def max_slots(self, layer: Any) -> int: ...
    def prepare(self, layer: Any) -> None: ...
    def observe(self, layer: Any, queries: torch.Tensor, weights: torch.Tensor | None) -> None: ...
    def evict(self, layer: Any) -> torch.Tensor | None: ...
    def merge(self, layer: Any, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None: ...
