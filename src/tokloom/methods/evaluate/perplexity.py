"""Perplexity: how well a text is predicted after a long part of it went through a method.

Paper: none (baseline)
Formula: logprob = mean of ln p over the held-out tokens, each given all tokens before it (teacher forcing; higher is
    better); perplexity = exp(-logprob); top1 = share of them that the model ranks first.
Shapes: one example per window: `prefix` tokens are read as a prompt, `length` tokens after them are scored one by one.
Effect: says what a method costs in plain language modelling, where needles ask for single tokens: a method may win one
    and lose the other. SmolLM2-135M: logprob -3.44 on the shipped text after 768 tokens (5 windows).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokloom.errors import ArgumentError, DocumentError
from tokloom.evaluate.haystack import read
from tokloom.evaluate.task import Example, Outcome, Task
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.models.language_model import LanguageModel


def windows(model: LanguageModel, text: str, count: int, prefix: int, length: int) -> Iterator[tuple[str, str]]:
    """Pieces of a text, evenly spread over it, as (prompt, continuation) of about so many tokens each.

    A piece begins and is divided at the border of a word, so that both parts have the tokens that they have together.
    Fewer pieces than `count` if the text is too short for them.
    """
    characters = max(1, len(text) // max(1, model.count(text)))
    start, step = 0, len(text) // count
    for i in range(count):
        start = max(start, i * step)
        if start > 0:
            start = text.find(" ", start) + 1
        piece = text[start : start + 8 * characters * (prefix + length)]
        tokens = model.encode(piece)
        if len(tokens) < prefix + length or (i and not start):
            return
        prompt = _words(model.decode(tokens[:prefix]))
        whole = _words(model.decode(tokens[: prefix + length]))
        yield prompt, whole[len(prompt) :]


def _words(text: str) -> str:
    """Without the last word, which may be cut off."""
    return text[: max(1, text.rfind(" "))]


@method(stage="evaluate")
class Perplexity(Task):
    """Scores: logprob (nats a token, not 0 to 1), perplexity (lower is better), top1."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    metric: ClassVar[str] = "logprob"

    prefix: int = Field(default=768, ge=1)
    """Tokens that are read first, whatever the method keeps of them."""
    length: int = Field(default=128, ge=1)
    """Tokens scored after them."""
    windows: int = Field(default=8, ge=1)
    """Pieces of the text, evenly spread over it."""
    path: str | None = None
    """Text file; 100 kB of The Time Machine if not given."""

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        if self.prefix + self.length >= model.window:
            raise ArgumentError(
                "perplexity:prefix", self.prefix, f"with length fewer than {model.window}, the window of {model.name}"
            )
        text = " ".join(read(self.path, "perplexity:path").split())
        number = 0
        for number, (prompt, continuation) in enumerate(
            windows(model, text, self.windows, self.prefix, self.length), 1
        ):
            yield Example(key=str(number), question=prompt, answers=(continuation,), prompt=prompt)
        if not number:
            raise DocumentError(
                str(self.path), f"has fewer than {self.prefix + self.length} tokens", "Give a longer text file."
            )

    def run(self, engine: Engine, example: Example) -> Outcome:
        assert example.prompt is not None  # `examples` always sets it
        scored = engine.score(example.prompt, example.answers[0])
        mean = math.fsum(scored.logprobs) / len(scored.logprobs)
        scores = {
            "logprob": mean,
            "perplexity": math.exp(-mean),
            "top1": sum(rank == 0 for rank in scored.ranks) / len(scored.ranks),
        }
        return Outcome(example, scores, scored)
