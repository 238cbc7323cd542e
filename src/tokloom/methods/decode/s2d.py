"""S2D drafts with nested sub-models of the model itself, each token by the smallest one that is sure of it.

Paper: P74. S2D: Sorted Speculative Decoding For More Efficient Deployment of Nested Large Language Models.
    arXiv:2407.01955

Formula:
    Sub-models of n_1 < n_2 < ... layers share all weights. Draft token by token: ask sub-model 1; while its likeliest
    token's probability is below `threshold`, ask the next. No sub-model sure: the draft ends.

Shapes: a chain of up to `length` tokens; one token's pass through n_i layers each, over the request's own KV store.

Effect: the paper drafts for Vicuna and Llama 2 of 7B to 70B, some 1.5 times as fast as plain decoding, with one draft
    model for all of them. Here the text is that of plain decoding. SmolLM2-135M's exits after 3, 12 and 24 of its 30
    layers, fitted in half a minute, say what the model says for 35%, 43% and 60% of a book's tokens (33%, 44% and 56%
    after gradient descent of minutes). Eight in ten drafted tokens are accepted, but few are drafted: on a CPU that
    is 0.3 to 0.5 times the speed of plain decoding (benchmarks/exits.py). Its head alone is a fifth of a pass, so
    that drafts by exits don't pay for so small a model. Verification reads drafted tokens through all layers again:
    to keep the first 3 layers' keys, values and hidden states would save a tenth of a row, 0.03 of a pass, where a
    drafted token costs 0.3 of one.

Differs: the paper trains its sub-models (Sorted fine-tuning of a separate draft model). Here they are the target's
    own lower layers, with a linear map before the shared head that is fitted on the spot, and share its KV store: a
    larger sub-model reads only what it has not seen, and the draft's keys and values are taken back before
    verification. Chances are measured for each sub-model and confidence. What policies that evict or select observed
    can't be taken back; under them nothing is drafted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.hit_rates import HitRates
from tokloom.engine.forward import forward
from tokloom.engine.prediction import PlainPrediction
from tokloom.errors import SpecError
from tokloom.kv.store import KVStore, Step
from tokloom.methods.decode._exit_heads import Progress, exits, fit
from tokloom.prepared import Prepared
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

BINS = 10
"""Of confidence, each with a rate of its own."""


@method(stage="decode")
class S2D(Prepared, Drafter):
    """`tokloom prepare s2d:exits=FILE TEXT ...` fits the exit heads."""

    example: ClassVar[dict[str, Any]] = {"exits": "exits", "layers": (1,), "steps": 1}

    exits: str = Field(min_length=1)
    """File of the exit heads."""
    threshold: float = Field(default=0.5, ge=0, lt=1)
    """Probability that a sub-model's token must have; else the next larger one is asked."""
    length: int = Field(default=6, ge=1, le=63)
    """Most tokens of a draft."""
    layers: tuple[int, ...] = (3, 12)
    """When fitting, after which layers the model gets exits."""
    steps: int = Field(default=0, ge=0)
    """When fitting, steps of gradient descent after the regression; they take minutes and add little."""

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise SpecError("s2d:layers", self.layers, "rising numbers of layers from 1 on")

    def start(self, model: LanguageModel) -> DraftState:
        return SortedState(self, list(exits(self.exits, model).items()))

    def prepare(self, model: LanguageModel, texts: Sequence[str], progress: Progress | None = None) -> dict[str, Any]:
        agreement = fit(self.exits, model, texts, self.layers, steps=self.steps, progress=progress)
        return {f"agreement after {n} layers": share for n, share in agreement.items()}


class SortedState(DraftState):
    """The sub-models, and how often each was right at each confidence."""

    def __init__(self, options: S2D, submodels: list[tuple[int, LanguageModel]]) -> None:
        self.options, self.submodels = options, submodels
        self.rates = HitRates([(i + 0.5) / BINS for _ in submodels for i in range(BINS)])

    def propose(self, request: DraftRequest) -> DraftTree:
        text, limit = list(request.tokens), min(self.options.length, request.limit, request.depth)
        if not isinstance(request.prediction, PlainPrediction):  # one of its own store, which the sub-models go over
            return DraftTree()
        store = request.prediction.store
        if store.seen != len(text) - 1 or not store.can_try(limit):
            return DraftTree()
        drafted: list[int] = []
        probabilities: list[float] = []
        marks: list[int] = []
        probability = 1.0
        try:
            while len(drafted) < limit:
                token, mark = self.next_token(store, [*text, *drafted])
                if mark < 0:
                    break
                probability *= self.rates.rate(mark)
                drafted.append(token)
                probabilities.append(probability)
                marks.append(mark)
        finally:
            store.rewind(len(text) - 1)
        return DraftTree.chain(drafted, probabilities, marks)

    def next_token(self, store: KVStore, text: list[int]) -> tuple[int, int]:
        """What the first sure sub-model says after `text`, and which rate it goes by; -1 if none is sure.

        Each sub-model's layers hold the tokens up to where it was last asked."""
        for which, (layers, model) in enumerate(self.submodels):
            known = store.layers[layers - 1].seen
            store.rewind(known)  # lower layers are ahead, and read these tokens again
            step = Step(tuple(range(known, len(text))), model.device)
            logits = forward(model, store, text[known:], step, all_logits=False)[-1]
            token, confidence = most_probable(logits)
            if confidence >= self.options.threshold:
                return token, which * BINS + min(int(confidence * BINS), BINS - 1)
        return 0, -1

    def observe(self, seen: Verified) -> None:
        """It has nothing to learn from the model's logits."""

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"rates": self.rates.counts}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.rates.counts = arrays["rates"]


def most_probable(logits: torch.Tensor) -> tuple[int, float]:
    """The likeliest token of (vocabulary,) and its probability."""
    # numpy on a CPU: torch's threads would wait actively where the next pass needs the cores
    scores = logits.cpu().numpy()
    token = int(scores.argmax())
    return token, float(1 / np.exp(scores - scores[token]).sum())
