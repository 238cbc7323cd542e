"""Active and dormant heads: how much attention the first token draws from each head, and how little it says there.

Paper: P44. Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs.
    arXiv:2410.13835
Formula: the sink of a head is the mean, over the text's queries but the first `skip`, of the attention weight of the
    first token; a head is dormant on a text if its sink is at least `dormant`. active = 1 - share of dormant heads;
    sink = mean over heads; drain = |v_0| / mean_{j > 0} |v_j|, mean over KV heads.
Shapes: one example per window of `length` tokens; active and sink 0 to 1, drain from 0 on (1: like other tokens).
Effect: the paper finds heads that are sinks on one kind of text and not on another, and sinks with small value states.
    On 256 tokens of prose 69% of SmolLM2-135M's heads are active, the first token gets 37% of all attention, and its
    values are a third as long as others'.
Differs: the paper looks at single heads of Llama 2 and OLMo; this counts all of a model's. It measures the model under
    dense attention, whatever the engine's policy is. Layers with a sliding window are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from tokloom.attention.policy import AttentionPolicy
from tokloom.errors import DocumentError
from tokloom.evaluate.haystack import read
from tokloom.evaluate.task import Example, Outcome, Task
from tokloom.methods.evaluate.perplexity import windows
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.kv.layer import KVLayer
    from tokloom.models.language_model import LanguageModel


AFTER = 8
"""Tokens behind a text, so that there is a whole word to go on with."""


class Sinks(AttentionPolicy):
    """Dense attention that keeps what the prompt's queries gave the first token."""

    name = "sinks"
    needs = ("attention_weights",)

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.given: dict[int, list[torch.Tensor]] = {}
        """By layer: a tensor (heads, rows) a pass."""
        self.drains: dict[int, torch.Tensor] = {}
        """By layer: (kv_heads,)."""

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None  # `needs` asks for them
        rows = layer.step.position_ids[: weights.shape[2]] >= self.skip
        self.given.setdefault(layer.index, []).append(weights[0, :, rows, 0])

    def prepare(self, layer: KVLayer) -> None:
        norms = layer.values[0].norm(dim=-1)  # (kv_heads, slots)
        self.drains[layer.index] = norms[:, 0] / norms[:, 1:].mean(-1)

    def sinks(self) -> torch.Tensor:
        """The mean weight of the first token: (layers, heads)."""
        return torch.stack([torch.cat(given, dim=1).mean(1) for _, given in sorted(self.given.items())])


@method(stage="evaluate")
class ActiveDormantHeads(Task):
    """Scores: active, sink, drain (a ratio, not 0 to 1)."""

    metric: ClassVar[str] = "active"

    length: int = Field(default=256, ge=4)
    """Tokens of a text."""
    windows: int = Field(default=4, ge=1)
    """Pieces of the text, evenly spread over it."""
    skip: int = Field(default=16, ge=1)
    """First queries, which have few tokens to choose from; not counted."""
    dormant: float = Field(default=0.5, gt=0, le=1)
    """Mean weight of the first token from which on a head is dormant."""
    path: str | None = None
    """Text file; 100 kB of The Time Machine if not given."""

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        text = " ".join(read(self.path, "active_dormant_heads:path").split())
        number = 0
        for number, (prompt, after) in enumerate(windows(model, text, self.windows, self.length, AFTER), 1):
            yield Example(key=str(number), question=prompt, answers=(after,), prompt=prompt)
        if not number:
            raise DocumentError(
                str(self.path), f"has fewer than {self.length + AFTER} tokens", "Give a longer text file."
            )

    def run(self, engine: Engine, example: Example) -> Outcome:
        from tokloom.engine.engine import Engine as DenseEngine

        assert example.prompt is not None  # `examples` always sets it
        watch = Sinks(self.skip)
        scored = DenseEngine(engine.model, attention=watch).score(example.prompt, example.answers[0])
        sinks = watch.sinks()
        scores = {
            "active": 1 - float((sinks >= self.dormant).float().mean()),
            "sink": float(sinks.mean()),
            "drain": float(torch.stack(list(watch.drains.values())).mean()),
        }
        return Outcome(example, scores, scored)
