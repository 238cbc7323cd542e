"""SkipDecode runs later tokens through fewer layers, by a schedule that only falls.

Paper: P65. SkipDecode: Autoregressive Skip Decoding with Batching and Caching for Efficient LLM Inference.
    arXiv:2307.02628

Formula:
    Output token t of at most T goes through n(t) = round(most - (most - least) * t / (T - 1)) layers: the first
    `warmup` ones and the last n(t) - warmup. The prompt goes through all.

Shapes: logits (rows, vocabulary); a layer's keys and values end at the last token that went through it.

Effect: the paper is 2 to 5 times as fast with next to no loss, with finetuned OPT models. Here the layers skipped are
    work saved (ledger: layers run against layers of plain decoding). Without finetuning the text suffers soon.
    SmolLM2's perplexity of a page, 21.7 with all layers, is 25 with 95% of them, 30 with 90% and 128 with 80% if the
    lower half is never skipped; with the paper's single warm-up layer it is 393 with 95% (benchmarks/skip_decode.py).

Differs: the paper finetunes the model under the schedule; here any model runs as it is, and half of the layers are
    never skipped unless `warmup` says otherwise. Batches: the engine decodes one sequence at a time, so that the
    schedule's being the same for all sequences of a batch is not put to use. The rows of a draft tree share one set of
    layers, so that drafts end where the schedule falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.decode.prediction import Prediction, Predictor
from tokloom.engine.prediction import PlainPrediction
from tokloom.errors import ArgumentError, SpecError
from tokloom.models.submodel import submodel
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.request_context import RequestContext
    from tokloom.kv.store import Step


MAX_ROWS = 64
"""A pass has no more."""


@method(stage="decode", renamed={"most": "max_share", "least": "min_share"})
class SkipDecode(Predictor):
    """State in the store: layers that were skipped hold fewer tokens."""

    max_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the layers that the first output token goes through."""
    min_share: float = Field(default=0.8, gt=0, le=1)
    """Share of the layers that the last one goes through."""
    warmup: int | None = Field(default=None, ge=1)
    """Layers at the bottom that are never skipped; null: half of all. The paper's models have 1."""
    tokens: int | None = Field(default=None, ge=2)
    """Output tokens over which the number falls; null: as many as the request may have."""

    def __post_init__(self) -> None:
        if self.min_share > self.max_share:
            raise SpecError("skip_decode:least", self.min_share, f"at most most, {self.max_share}")

    def start(self, host: RequestContext) -> Prediction:
        return SkippingPrediction(host, self)

    def run(self, token: int, tokens: int, count: int) -> int:
        """How many layers, of `count`, output token `token` of at most `tokens` goes through."""
        fallen = min(token / max(tokens - 1, 1), 1.0)
        return max(self.lowest(count), round(count * (self.max_share - (self.max_share - self.min_share) * fallen)))

    def lowest(self, count: int) -> int:
        """How many layers, of `count`, are never skipped."""
        return max(1, count // 2) if self.warmup is None else self.warmup


class SkippingPrediction(PlainPrediction):
    """The model's prediction over one store, by fewer and fewer layers."""

    reads_opening = False

    def __init__(self, host: RequestContext, options: SkipDecode) -> None:
        self.options = options
        self.count: int = host.model.model.config.get_text_config().num_hidden_layers
        if options.warmup is not None and options.warmup > self.count:
            raise ArgumentError("warmup", options.warmup, f"at most {self.count}, the layers of {host.model.name}")
        super().__init__(host)
        self.prompt_length = 0
        self.running = tuple(range(self.count))
        self.part = host
        """The host of the sub-model that runs now."""
        self.counts = {"layers run": 0, "layers of plain decoding": 0}

    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        self.prompt_length = len(tokens)
        return super().prefill(tokens, progress)

    def rows(self, tokens: Sequence[int], step: Step) -> torch.Tensor:
        self.fall_to(self.run(step.positions[0]))
        self.counts["layers run"] += len(self.running) * step.rows
        self.counts["layers of plain decoding"] += self.count * step.rows
        return self.part.forward(self.store, tokens, step).logits

    def run(self, position: int) -> int:
        """How many layers the token at this position of the text goes through."""
        tokens = self.options.tokens or self.host.new_tokens
        return self.options.run(position - self.prompt_length, tokens, self.count)

    def fall_to(self, run: int) -> None:
        """Changes the layers that run to the lowest and the highest ones, `run` of them."""
        warmup = self.options.lowest(self.count)
        layers = (*range(warmup), *range(self.count - run + warmup, self.count))
        if layers == self.running:
            return
        assert set(layers) < set(self.running), "the schedule only falls"
        assert all(self.store.layers[i].seen == self.store.seen for i in layers), "a key that is needed is missing"
        self.running = layers
        self.part = self.host.beside(submodel(self.host.model, layers))

    def max_draft_tokens(self) -> int:
        """Tokens until the schedule falls, if that comes before the attention's own limit."""
        first, max_share = self.store.seen, min(super().max_draft_tokens(), MAX_ROWS)
        now = self.run(first)
        return next((ahead for ahead in range(1, max_share) if self.run(first + ahead) != now), max_share)
