"""The interface of methods that change a model's rotary frequencies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


class RotaryScaling(ABC):
    """Interface of what changes a model's rotary frequencies, under any policy: `Engine(rope=...)`."""

    stage: ClassVar[str] = "attention"
    name: ClassVar[str]
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def window(self, trained: int) -> int:
        """The most tokens of prompt and output together, for a model trained on `trained`."""

    @abstractmethod
    def frequencies(self, plain: torch.Tensor, trained: int) -> tuple[torch.Tensor, float]:
        """The angle per position of each pair of dimensions, and a factor on cosines and sines.

        plain: the model's own, float64 (head_dim / 2,)."""
