"""Top-k overlap: how much of what dense attention weighs most a method attends to; a diagnostic, not a quality.

Paper: none (baseline)
Formula: per step, layer and KV head, with A the k tokens of the prompt that the method attends to and p the dense
    probabilities summed over the head's queries: overlap = |A and top-k of p| / k; mass = sum of p over A / sum of p.
    Means over steps and heads, then over layers; lowest_layer is the smallest mass of a layer.
Shapes: one example per window: `prefix` tokens of prompt, `length` steps along the text; scores 0 to 1.
Effect: 1 for dense attention, and k / tokens for slots chosen at random; sinks and recent tokens alone often have most
    of the mass and little of the top-k. Layers with a sliding window are left out.
Differs: evicting methods change what later layers see, so that their own queries differ from the dense ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from tokloom.attention.trace import DenseWeights, Trace
from tokloom.errors import DocumentError
from tokloom.evaluate.haystack import read
from tokloom.evaluate.task import Example, Outcome, Task
from tokloom.methods.evaluate.perplexity import windows
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.models.language_model import LanguageModel


def overlaps(steps: Sequence[torch.Tensor], dense: Sequence[torch.Tensor], tokens: int) -> tuple[float, float]:
    """Overlap and mass of one layer, means over steps and KV heads.

    Args:
        steps: bool (kv_heads, tokens or more) each, what was attended; dense: the probabilities, in that shape.
        tokens: of the prompt; what lies behind them is not counted.
    """
    shared, mass = [], []
    for seen, weights in zip(steps, dense, strict=True):
        seen, weights = seen[:, :tokens], weights[:, :tokens]
        ranks = weights.argsort(-1, descending=True).argsort(-1)
        best = ranks < seen.sum(-1, keepdim=True)
        shared.append((seen & best).sum(-1) / seen.sum(-1).clamp_min(1))
        mass.append((weights * seen).sum(-1) / weights.sum(-1))
    return float(torch.stack(shared).mean()), float(torch.stack(mass).mean())


@method(stage="evaluate")
class TopKOverlap(Task):
    """Scores: overlap, mass, lowest_layer."""

    needs: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "overlap"

    prefix: int = Field(default=768, ge=1)
    """Tokens of the prompt."""
    length: int = Field(default=16, ge=2)
    """Tokens after it, one step each."""
    windows: int = Field(default=4, ge=1)
    """Pieces of the text, evenly spread over it."""
    path: str | None = None
    """Text file; 100 kB of The Time Machine if not given."""

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        text = " ".join(read(self.path, "top_k_overlap:path").split())
        number = 0
        for number, (prompt, after) in enumerate(windows(model, text, self.windows, self.prefix, self.length), 1):
            yield Example(key=str(number), question=prompt, answers=(after,), prompt=prompt)
        if not number:
            raise DocumentError(
                str(self.path), f"has fewer than {self.prefix + self.length} tokens", "Give a longer text file."
            )

    def run(self, engine: Engine, example: Example) -> Outcome:
        from tokloom.engine.engine import Engine as DenseEngine

        assert example.prompt is not None  # `examples` always sets it
        trace, dense = Trace(), DenseWeights()
        scored = engine.score(example.prompt, example.answers[0], watch=trace)
        DenseEngine(engine.model, attention=dense).score(example.prompt, example.answers[0])
        layers = [overlaps(trace.steps(i), dense.found[i], scored.prompt_tokens) for i in trace.layers]
        scores = {
            "overlap": sum(overlap for overlap, _ in layers) / len(layers),
            "mass": sum(mass for _, mass in layers) / len(layers),
            "lowest_layer": min(mass for _, mass in layers),
        }
        return Outcome(example, scores, scored)
