"""A model and an engine that answer by rule: what the tests of tasks and comparisons need, without any tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokloom.compare.placement import Contender
from tokloom.context.selector import Document, Selection, Span
from tokloom.engine.request import Result, Sampling
from tokloom.ledger import Ledger, Row


@dataclass
class FakeModel:
    """Tokens are digits, words with the space before them, and other characters; a full stop swallows a space."""

    name: str = "fake"
    window: int = 4096
    dtype: str = "torch.float32"
    device: str = "cpu"
    weights: str = "fp32"
    pieces: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        found = re.findall(r"\d|\. | ?[^\W\d]+|.", text, re.S)
        for piece in found:
            if self.known.setdefault(piece, len(self.pieces)) == len(self.pieces):
                self.pieces.append(piece)
        return [self.known[piece] for piece in found]

    def encode_prompt(self, text: str, *, chat: bool) -> list[int]:
        return self.encode(text)

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + "<assistant>"


@dataclass
class FakeScore:
    tokens: tuple[int, ...]
    prompt_tokens: int
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    ledger: Ledger


@dataclass
class FakeEngine:
    """Answers `answer(prompt)`; ranks a continuation's tokens 0 as long as `sees(prompt)`."""

    model: FakeModel
    answer: Callable[[str], str] = lambda prompt: "an answer"
    sees: Callable[[str], bool] = lambda prompt: True
    contender: Contender | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def generate(
        self,
        prompt: str,
        *,
        documents: Sequence[Document] | None = None,
        constraint: Any = None,
        sampling: Sampling | None = None,
    ) -> Result:
        assert sampling is not None
        self.calls.append((prompt, {"documents": documents, "constraint": constraint, "sampling": sampling}))
        text = self.answer(prompt)
        tokens = tuple(self.model.encode(text))
        selection = None
        rows = []
        if documents is not None:
            selection = Selection(tuple(Span(d, 0, len(d.text)) for d in documents))
            size = sum(self.model.count(d.text) for d in documents)
            rows.append(Row("context", "fake", tokens_in=size, tokens_out=size, seconds=0.125, processor_seconds=0.25))
        budget = self.contender.budget if self.contender is not None else None
        held = budget or 100
        rows += [
            Row("tokenize", "model", tokens_out=self.model.count(prompt), seconds=0.0),
            Row("attention", "fake", seconds=0.25, processor_seconds=0.5, kv_bytes=held * 1024,
                kv_bytes_peak=held * 2048, counts={"seen": 100, "held": held, "attended": held * 3, "attendable": 300}),
            Row("decode", "fake", tokens_out=len(tokens), forward_passes=len(tokens) - 1, seconds=0.5,
                processor_seconds=1.0, counts={"drafted": 0, "accepted": 0}),
        ]  # fmt: skip
        return Result(text, tokens, self.model.count(prompt), "end", Ledger(rows), selection)

    def score(self, prompt: str, continuation: str, watch: Any = None) -> FakeScore:
        tokens = tuple(self.model.encode(continuation))
        rank, logprob = (0, -0.5) if self.sees(prompt) else (7, -3.0)
        return FakeScore(tokens, self.model.count(prompt), (logprob,) * len(tokens), (rank,) * len(tokens), Ledger())
