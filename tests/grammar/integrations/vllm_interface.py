"""The part of vLLM's V1 interface that a logits processor sees, with a batch that calls it as the engine does.

The classes have the names, fields and signatures of `vllm.v1.sample.logits_processor`; they are put in that place
where vLLM is not installed.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Sequence[int]
    added: Sequence[tuple[int, Any, list[int] | None, list[int]]]
    moved: Sequence[tuple[int, int, MoveDirectionality]]


class LogitsProcessor(ABC):
    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        return None

    @abstractmethod
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update: BatchUpdate | None) -> None: ...


@dataclass
class SamplingParams:
    extra_args: dict[str, Any] | None = None


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts the interface where vLLM has it."""
    for name in ("vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor"):
        patch.setitem(sys.modules, name, ModuleType(name))
    module = sys.modules["vllm.v1.sample.logits_processor"]
    module.BatchUpdate, module.LogitsProcessor = BatchUpdate, LogitsProcessor  # type: ignore[attr-defined]
    module.MoveDirectionality = MoveDirectionality  # type: ignore[attr-defined]


def config(tokenizer_path: str, size: int, eos: int | list[int] | None) -> Any:
    """What a processor reads of a `VllmConfig`."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            tokenizer=tokenizer_path,
            tokenizer_revision=None,
            hf_config=SimpleNamespace(eos_token_id=eos),
            get_vocab_size=lambda: size,
        )
    )


@dataclass
class Batch:
    """A persistent batch: requests come, go and are condensed as in the engine, which samples from random logits."""

    processor: Any
    size: int
    eos: int
    rows: list[tuple[SamplingParams, list[int]] | None] = field(default_factory=list)
    _removed: list[int] = field(default_factory=list)
    _added: list[tuple[int, Any, list[int] | None, list[int]]] = field(default_factory=list)
    _moved: list[tuple[int, int, MoveDirectionality]] = field(default_factory=list)

    def add(self, params: SamplingParams) -> list[int]:
        """The request's running list of output tokens."""
        output: list[int] = []
        holes = [i for i, row in enumerate(self.rows) if row is None]
        index = holes[0] if holes else len(self.rows)
        if index == len(self.rows):
            self.rows.append(None)
        if index in self._removed:
            self._removed.remove(index)
        self.rows[index] = (params, output)
        self._added.append((index, params, [1, 2, 3], output))
        return output

    def remove(self, output: list[int]) -> None:
        index = self._index(output)
        self.rows[index] = None
        self._removed.append(index)

    def swap(self, first: int, second: int) -> None:
        self.rows[first], self.rows[second] = self.rows[second], self.rows[first]
        self._moved.append((first, second, MoveDirectionality.SWAP))

    def condense(self) -> None:
        """Fills holes from the end, one-way moves."""
        while None in self.rows:
            hole = self.rows.index(None)
            last = len(self.rows) - 1
            while last >= 0 and self.rows[last] is None:
                last -= 1
            if last < hole:
                del self.rows[hole:]
                return
            self.rows[hole], self.rows[last] = self.rows[last], None
            self._moved.append((last, hole, MoveDirectionality.UNIDIRECTIONAL))

    def step(self, generator: torch.Generator) -> torch.Tensor:
        """One forward pass: the processor's state, its logits, and a token sampled for each request."""
        changed = self._removed or self._added or self._moved
        update = BatchUpdate(len(self.rows), tuple(self._removed), tuple(self._added), tuple(self._moved))
        self.processor.update_state(update if changed else None)
        self._removed, self._added, self._moved = [], [], []
        logits = torch.randn(len(self.rows), self.size, generator=generator)
        logits = self.processor.apply(logits)
        tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].tolist()
        for row, token in zip(self.rows, tokens, strict=True):
            if row is not None:
                row[1].append(token)
        return logits

    def _index(self, output: list[int]) -> int:
        return next(i for i, row in enumerate(self.rows) if row is not None and row[1] is output)
