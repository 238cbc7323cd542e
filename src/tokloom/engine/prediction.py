"""The model's own prediction, and the base of those that change its logits row by row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, cast

import torch

from tokloom.decode.prediction import Prediction
from tokloom.engine.forward import Job

if TYPE_CHECKING:
    from tokloom.engine.capture import MlpInput
    from tokloom.engine.request_context import PassOutput, RequestContext
    from tokloom.kv.store import KVStore, Step


class PlainPrediction(Prediction):
    """What the model says, over one store.

    hidden_layer: of which layer `hidden` is kept; see `RequestContext.forward`.
    """

    store: KVStore

    reads_opening = True

    def __init__(self, host: RequestContext, hidden_layer: int | MlpInput | None = None) -> None:
        super().__init__(host)
        self.hidden_layer = hidden_layer
        self.hidden = torch.empty(0)
        """(rows, hidden size) of the last pass, of the whole prompt after `prefill`; empty without a hidden_layer."""

    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        self.store = self.host.open(len(tokens))
        logits, self.hidden = self.host.prefill(self.store, tokens, progress, self.hidden_layer)
        return logits[0]

    def rows(self, tokens: Sequence[int], step: Step) -> torch.Tensor:
        return self.read(self.host.forward(self.store, tokens, step, hidden_layer=self.hidden_layer))

    def read(self, output: PassOutput) -> torch.Tensor:
        """The logits that it makes of a pass over its store."""
        self.hidden = output.hidden
        return output.logits

    @staticmethod
    def rows_together(asked: Sequence[tuple[Prediction, Sequence[int], Step]]) -> list[torch.Tensor]:
        predictions = [prediction for prediction, _, _ in asked]
        if not all(type(p).rows is PlainPrediction.rows for p in predictions):  # one of its own may do more than a pass
            return Prediction.rows_together(asked)
        plain = cast("list[PlainPrediction]", predictions)
        jobs = [Job(p.store, tokens, step) for p, (_, tokens, step) in zip(plain, asked, strict=True)]
        outputs = plain[0].host.forward_many(jobs, hidden_layer=plain[0].hidden_layer)
        return [p.read(output) for p, output in zip(plain, outputs, strict=True)]

    def accept(self, path: list[int]) -> None:
        self.store.accept(path)

    def fork(self) -> PlainPrediction:
        other = copy(self)
        other.store = self.store.fork()
        return other


class AdjustedPrediction(PlainPrediction):
    """The model's logits, changed row by row: draft trees, constraints and attention policies go on as they were."""

    @abstractmethod
    def adjust(self, logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) in place of the model's; hidden: (rows, hidden size) of `hidden_layer`."""

    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        logits = super().prefill(tokens, progress)
        return self.adjust(logits[None], self.hidden[-1:])[0]

    def read(self, output: PassOutput) -> torch.Tensor:
        return self.adjust(super().read(output), self.hidden)
