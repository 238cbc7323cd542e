"""What the tests of the command line share: a result with every kind of figure, and an engine that returns it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokloom.context.selector import Decision, Document, Selection, Span
from tokloom.engine.request import Chunk, Result
from tokloom.ledger import Ledger, Row, Saving


@dataclass
class Outcome:
    """What a run printed and returned."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def sample_result(document: Document) -> Result:
    """A result with every kind of figure."""
    spans = (Span(document, 0, 12), Span(document, 20, len(document.text)))
    trace = (
        Decision(spans[0], True, "best match", {"bm25": 3.25, "cosine": 0.5}),
        Decision(Span(document, 12, 20), False, "same as passage 1"),
    )
    rows = [
        Row("context", "context_bubble", tokens_in=41203, tokens_out=912, seconds=1.5, counts={"spans": 2}),
        Row("attention", "h2o", tokens_in=950, tokens_out=512, forward_passes=2, seconds=0.5),
        Row("decode", "token_recycling", tokens_out=12, forward_passes=5, seconds=0.25),
    ]
    rows[0].savings = [Saving("prompt tokens", 41203, 912)]
    rows[1].kv_bytes, rows[1].kv_bytes_peak = 5 * 2**20, 7 * 2**20
    rows[2].counts = {"drafted": 20, "accepted": 7, "forced": 0}
    rows[2].savings = [Saving("forward passes", 11, 5)]
    selection = Selection(spans, trace)
    return Result("Ishmael [he].", (1, 2, 3), 950, "end", Ledger(rows), selection, {"model": "fake"})


class FakeStream:
    def __init__(self, chunks: Iterator[Chunk], result: Result) -> None:
        self._chunks, self.result = chunks, result

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)


@dataclass
class FakeEngine:
    """Records how it was made and asked; answers with `sample_result`, or raises `failure`."""

    made: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    failure: BaseException | None = None

    def __call__(self, **options: Any) -> FakeEngine:
        self.made = options
        return self

    def stream(self, **request: Any) -> FakeStream:
        progress = request.pop("progress", None)
        self.asked = request
        if progress is not None:
            progress("prompt", 512, 950)
        result = sample_result((request.get("documents") or [Document("none", "x" * 40)])[0])
        return FakeStream(self._chunks(result), result)

    def _chunks(self, result: Result) -> Iterator[Chunk]:
        yield Chunk("", (1,))
        yield Chunk(result.text[:7], (2,))
        if self.failure is not None:
            raise self.failure
        yield Chunk("", ())
        yield Chunk(result.text[7:], (3,))

    def generate(self, **request: Any) -> Result:
        stream = self.stream(**request)
        for _ in stream:
            pass
        return stream.result
