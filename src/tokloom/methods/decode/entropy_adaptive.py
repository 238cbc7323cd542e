"""Entropy Adaptive Decoding lets a small model write while it is sure, and the large one where it is not.

Paper: P57. Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference. arXiv:2502.06833

Formula:
    H_t = -sum_i p_i log2 p_i of the model that predicts token t; mean_t: of the last `window` of them. After at least
    `stay` tokens by one model, the next token is the large model's if mean_t > `threshold`, else the small model's.

Shapes: logits (rows, vocabulary); a KV store for each model. A model that takes over first reads what the other wrote.

Effect: the paper keeps 93 to 97% of the large model's MATH score with 25 to 43% of the tokens from it. Here SmolLM2
    with its own exit after 24 of 30 layers as the small model: at thresholds of 0, 2, 3, 4 and 20 bits the whole model
    predicts 83%, 42%, 31%, 22% and none of the tokens, and the texts' perplexity under it is 2.93, 2.93, 2.93, 3.42 and
    3.85 (three continuations of a book, greedy). Across tokenizers, byte by byte, Gemma-3 270M as the large model and
    SmolLM2 as the small one: at thresholds of 0, 0.5, 1, 1.5, 2 and 20 bits Gemma predicts 93%, 57%, 41%, 27%, 12%
    and none of 640 bytes of a book, which cost 0.885, 0.899, 0.931, 0.925, 0.942 and 0.957 bits each
    (benchmarks/entropy_adaptive.py).

Differs: only abstract and rules of the paper were to be had: the small model begins, and the defaults of window,
    threshold and stay are ours. Drafts are verified within the `stay` tokens after a switch, where none can come.
    With `base` both models predict through another predictor, such as byte_level for different tokenizers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from tokloom import registry
from tokloom.decode.prediction import Prediction, Predictor
from tokloom.engine.prediction import PlainPrediction
from tokloom.errors import CompositionError, SpecError
from tokloom.kv.store import Step
from tokloom.methods.decode._exit_heads import exits
from tokloom.models.load import load
from tokloom.models.translation import translate
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.request_context import RequestContext
    from tokloom.models.language_model import LanguageModel
    from tokloom.tokenize.vocabulary import Vocabulary

MAX_ROWS = 64
"""Tokens of the other model that are read in one pass."""


@cache
def loaded(name: str, weights: str | None) -> LanguageModel:
    """One copy of each small model for all requests."""
    return load(name, weights=weights)


@method(stage="decode")
class EntropyAdaptive(Predictor):
    """The engine's model is the large one."""

    small: str | None = None
    """The small model: a name, folder, GGUF file or hub id. One of small and exits is to be given."""
    weights: str | None = None
    """How it keeps its weights."""
    exits: str | None = None
    """A file of exit heads (tokloom prepare s2d:exits=FILE ...); the deepest exit is the small model."""
    threshold: float = Field(default=2.0, ge=0)
    """Bits of mean entropy above which the large model predicts."""
    window: int = Field(default=5, ge=1)
    """Tokens that the mean is over."""
    stay: int = Field(default=8, ge=1)
    """Fewest tokens of one model before the other one may take over."""
    base: str | None = None
    """Spec of a predictor that both models predict through; byte_level for models with different tokenizers."""

    def __post_init__(self) -> None:
        if self.small is not None and self.exits is not None:
            raise SpecError("entropy_adaptive:small", self.small, "not given together with exits")
        if self.base is not None:
            registry.build(self.base, Predictor, "base")

    @property
    def unit(self) -> str:
        return "tokens" if self.base is None else registry.build(self.base, Predictor, "base").unit

    def start(self, host: RequestContext) -> Prediction:
        large, small = (self._through(each) for each in (host, host.beside(self._small(host.model))))
        if large.vocabulary.token_bytes != small.vocabulary.token_bytes:
            raise CompositionError(
                host.model.name, small.host.model.name,
                "their tokenizers differ; let both predict bytes with entropy_adaptive:base=byte_level",
            )  # fmt: skip
        return AdaptivePrediction(host, self, large, small)

    def _through(self, host: RequestContext) -> Prediction:
        return PlainPrediction(host) if self.base is None else registry.build(self.base, Predictor, "base").start(host)

    def _small(self, large: LanguageModel) -> LanguageModel:
        if self.small is not None:
            return loaded(self.small, self.weights)
        if self.exits is None:
            raise SpecError(
                "entropy_adaptive:small", None, "a model, unless exits is given",
                "For example: entropy_adaptive:small=smollm2-135m,weights=int4.",
            )  # fmt: skip
        return list(exits(self.exits, large).values())[-1]


class AdaptivePrediction(Prediction):
    """Two predictions over the same text; one of them at work."""

    def __init__(self, host: RequestContext, options: EntropyAdaptive, large: Prediction, small: Prediction) -> None:
        super().__init__(host)
        self.options = options
        self.both = {"large": large, "small": small}
        self.active = "small"
        self.since = 0
        """Tokens predicted since it took over."""
        self.entropies: deque[float] = deque(maxlen=options.window)
        self.given: list[int] = []
        """The prompt in the large model's tokens."""
        self.prompt_length = 0
        """In tokens of `vocabulary`."""
        self.text: list[int] = []
        """Prompt and output in tokens of `vocabulary`, but for the last one, which comes with the next pass."""
        self.read = {"large": 0, "small": 0}
        """How much of `text` each has read."""
        self.tokens: Sequence[int] = ()
        self.logits = torch.empty(0)
        self.counts = {"by the large model": 0, "by the small model": 0, "switches": 0}

    @property
    def vocabulary(self) -> Vocabulary:
        return self.both["large"].vocabulary

    @property
    def eos_ids(self) -> frozenset[int]:
        return self.both["large"].eos_ids

    @property
    def window(self) -> int:
        return min(each.window for each in self.both.values())

    def prompt(self, tokens: Sequence[int]) -> list[int]:
        return self.both["large"].prompt(tokens)

    def encode(self, text: str) -> list[int]:
        return self.both["large"].encode(text)

    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        self.given, self.text = list(tokens), self.prompt(tokens)
        self.prompt_length = len(self.text)
        logits = self._begin(progress)
        self._note(logits[None])
        return logits

    def rows(self, tokens: Sequence[int], step: Step) -> torch.Tensor:
        self._choose()
        self._catch_up(step.device)
        whole = replace(step, skipped=0)  # each token counts, also one that was certain
        self.tokens, self.logits = tokens, self.both[self.active].rows(tokens, whole)
        return self.logits[step.skipped :]

    def accept(self, path: list[int]) -> None:
        self.both[self.active].accept(path)
        self.text += [self.tokens[row] for row in path]
        self.read[self.active] = len(self.text)
        self._note(self.logits[path])

    def max_draft_tokens(self) -> int:
        """Where the models may change after the next token, no further one is drafted."""
        forced = max(1, self.options.stay - self.since) if self._next() == self.active else self.options.stay
        return min(self.both[self.active].max_draft_tokens(), forced)

    def _next(self) -> str:
        """The model that predicts the next token."""
        if self.since < self.options.stay:
            return self.active
        return "large" if sum(self.entropies) / len(self.entropies) > self.options.threshold else "small"

    def _choose(self) -> None:
        chosen = self._next()
        if chosen != self.active:
            self.active, self.since = chosen, 0
            self.counts["switches"] += 1

    def _begin(self, progress: Callable[[int], None]) -> torch.Tensor:
        """The model that is at work reads the prompt, in its own tokens."""
        prediction = self.both[self.active]
        tokens, own, model = self.given, self.host.model.vocabulary, prediction.host.model
        if model.vocabulary.token_bytes != own.token_bytes:
            tokens = translate(tokens, own, model)
        prediction.prompt(tokens)  # as a request would: it may note the prompt's length
        self.read[self.active] = self.prompt_length
        return prediction.prefill(tokens, progress)

    def _catch_up(self, device: torch.device) -> None:
        """The model that is at work reads what the other one wrote."""
        if not self.read[self.active]:
            self._begin(lambda done: None)
        prediction = self.both[self.active]
        while (start := self.read[self.active]) < len(self.text):
            missed = self.text[start : start + min(prediction.max_draft_tokens(), MAX_ROWS)]
            rows = range(len(missed))
            step = Step(tuple(start + row for row in rows), device, parents=tuple(row - 1 for row in rows))
            prediction.rows(missed, step)
            prediction.accept(list(rows))
            self.read[self.active] += len(missed)

    def _note(self, logits: torch.Tensor) -> None:
        """Counts the tokens that these rows, (rows, vocabulary), predict."""
        self.entropies += entropies(logits)
        self.since += len(logits)
        self.counts[f"by the {self.active} model"] += len(logits)


def entropies(logits: torch.Tensor) -> list[float]:
    """In bits, of each row of (rows, vocabulary)."""
    # numpy on a CPU: torch's threads would wait actively where the next pass needs the cores
    scores = logits.cpu().numpy().astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    weights = np.exp(scores)
    total = weights.sum(-1)
    weighted = np.where(weights > 0, weights * np.where(weights > 0, scores, 0), 0).sum(-1)
    found: list[float] = ((np.log(total) - weighted / total) / np.log(2)).tolist()
    return found
