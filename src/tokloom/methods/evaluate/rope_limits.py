"""RoPE's limits: how often rotation makes far keys score above near ones, and swaps which of two keys scores higher.

Paper: P15. RoPE Distinguishes Neither Positions Nor Tokens in Long Contexts, Provably. arXiv:2605.15514
Formula: q and k of real text, rotation undone, score s(n) = Re sum_i q_i conj(k_i) e^(i n f_i) at a distance of n
    tokens, over complex pairs. locality: the share of draws in which s(n) > s(m), n uniform in the nearer half of
    `context` and m in the farther half. consistency: for two keys of one query, the share of draws in which the key
    that scores higher at n scores higher at m too, both uniform in `context`. By chance both are 0.5.
Shapes: `draws` pairs a layer and KV head and example; scores 0 to 1.
Effect: the paper proves that both fall towards 0.5 as contexts grow, and that a larger base trades one for the other.
    On SmolLM2-135M at contexts of 16 / 1,024 / 65,536, consistency is 0.91 / 0.82 / 0.58 and locality 0.79 / 0.82 /
    0.43.
Differs: read from the paper's abstract; the distances' distribution is ours. Both keys are put at the same distance.
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
from tokloom.models.rotary import frequencies_of
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.kv.layer import KVLayer
    from tokloom.models.language_model import LanguageModel


AFTER = 8
"""Tokens behind a text, so that there is a whole word to go on with."""


class Rotated(AttentionPolicy):
    """Dense attention that keeps the prompt's last pass: queries (heads, rows, d), keys (kv_heads, slots, d)."""

    name = "rotated"
    needs = ("queries", "keys")

    def __init__(self) -> None:
        self.found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        if layer.step.prompt:
            self.found[layer.index] = queries[0].clone(), layer.keys[0].clone()


def unrotated(rotated: torch.Tensor, positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Vectors (..., n, d) at `positions` (n,) before rotation, as complex pairs (..., n, d / 2)."""
    half = rotated.shape[-1] // 2
    pairs = torch.complex(rotated[..., :half].double(), rotated[..., half:].double())
    angles = positions.double()[:, None] * frequencies
    return pairs * torch.polar(torch.ones_like(angles), -angles)


def scores(products: torch.Tensor, distances: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """s(n) of products q conj(k), complex (draws, d / 2), at `distances` (draws,)."""
    angles = distances.double()[:, None] * frequencies
    return (products * torch.polar(torch.ones_like(angles), angles)).real.sum(-1)


@method(stage="evaluate")
class RopeLimits(Task):
    """Scores: locality, consistency."""

    metric: ClassVar[str] = "consistency"

    context: int = Field(default=8192, ge=2)
    """Distances are drawn below this."""
    draws: int = Field(default=256, ge=1)
    """Pairs of a query and a key of each layer and KV head."""
    length: int = Field(default=256, ge=4)
    """Tokens of a text that queries and keys are taken from."""
    windows: int = Field(default=2, ge=1)
    """Pieces of the text, evenly spread over it."""
    seed: int = 0
    """Draws pairs and distances."""
    path: str | None = None
    """Text file; 100 kB of The Time Machine if not given."""

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        text = " ".join(read(self.path, "rope_limits:path").split())
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
        frequencies = frequencies_of(engine.model, self.name).cpu()
        watch = Rotated()
        dense = DenseEngine(engine.model, attention=watch, prefill_chunk=self.length + 1)
        scored = dense.score(example.prompt, example.answers[0])
        generator = torch.Generator().manual_seed(self.seed)
        nearer, kept = [], []
        for queries, keys in watch.found.values():
            for head in range(len(keys)):
                of_head = queries[head * len(queries) // len(keys)].cpu()  # the first query head of the group
                near, same = self._shares(of_head, keys[head].cpu(), frequencies, generator)
                nearer.append(near)
                kept.append(same)
        means = {"locality": sum(nearer) / len(nearer), "consistency": sum(kept) / len(kept)}
        return Outcome(example, means, scored)

    def _shares(
        self, queries: torch.Tensor, keys: torch.Tensor, frequencies: torch.Tensor, generator: torch.Generator
    ) -> tuple[float, float]:
        """Locality and consistency of one head. queries (n, d), keys (n, d), rotated."""
        positions = torch.arange(len(keys))
        q, k = (unrotated(part, positions, frequencies) for part in (queries, keys))
        chosen = torch.randint(len(keys), (3, self.draws), generator=generator)
        one, other = (q[chosen[0]] * k[chosen[i]].conj() for i in (1, 2))
        half = self.context // 2
        near = torch.randint(half, (self.draws,), generator=generator)
        far = half + torch.randint(self.context - half, (self.draws,), generator=generator)
        local = scores(one, near, frequencies) > scores(one, far, frequencies)
        places = torch.randint(self.context, (2, self.draws), generator=generator)
        higher = [scores(one, n, frequencies) > scores(other, n, frequencies) for n in places]
        return float(local.double().mean()), float((higher[0] == higher[1]).double().mean())
