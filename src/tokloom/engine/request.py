"""What goes into a request and what comes out: sampling parameters, a stream and its chunks, the result, a score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from tokloom.context.selector import Selection, Span
from tokloom.errors import ArgumentError
from tokloom.ledger import Ledger

StopReason = Literal["end", "stop", "length", "window"]
"""end: the model ended its text; stop: a stop string; length: max_new_tokens; window: the model's context is full."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. temperature 0 is greedy; filters apply in the order top-k, top-p, min-p.

    stop: strings at whose first occurrence the text ends (they are not part of it).
    seed: the same seed gives the same text, with or without a drafter; of 64 bits, with a sign or without.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop, Iterable):
            object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        checks = (
            ("max_new_tokens", _whole(self.max_new_tokens) and self.max_new_tokens >= 1, "an integer >= 1"),
            (
                "temperature",
                _real(self.temperature) and 0 <= self.temperature < math.inf,
                "a number >= 0 (0 is greedy)",
            ),
            ("top_k", _whole(self.top_k) and self.top_k >= 0, "an integer >= 0 (0 is off)"),
            ("top_p", _real(self.top_p) and 0 < self.top_p <= 1, "a number in (0, 1] (1 is off)"),
            ("min_p", _real(self.min_p) and 0 <= self.min_p < 1, "a number in [0, 1) (0 is off)"),
            (
                "seed",
                self.seed is None or (_whole(self.seed) and -(2**63) <= self.seed < 2**64),
                "an integer in [-2**63, 2**64) or None",
            ),
            (
                "stop",
                isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
                "one or several non-empty strings",
            ),
        )
        for name, valid, expected in checks:
            if not valid:
                raise ArgumentError(name, getattr(self, name), expected)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def given_or(default: Sampling, given: object) -> Sampling:
    """What was given; the default for None. Raises ArgumentError if it is anything else."""
    if given is None:
        return default
    if not isinstance(given, Sampling):
        raise ArgumentError("sampling", given, "a tokloom.Sampling")
    return given


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream: text that ends on a whole character, and the tokens that it came with."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """The answer and its account.

    text: the output, without stop string and special tokens.
    tokens: every token that was generated, the end-of-sequence token included.
    prompt_tokens: length of the prompt in tokens.
    selection: the cited spans and the trace, if documents were given.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    stop_reason: StopReason
    ledger: Ledger
    selection: Selection | None = None
    components: dict[str, str] = field(default_factory=dict)
    """The specs of what ran: model, attention, drafter, context, constraint."""
    parsed: Any = None
    """What the constraint makes of the text (a JSON value, an object of the schema's type, a reply with its calls);
    None without such a constraint, or if the output was cut before it was complete (see `stop_reason`)."""
    parse_error: str | None = None
    """Why a complete output that the constraint allows could not be made into `parsed`: a schema can't say all that a
    Python type's own validators ask for. The text is there all the same."""

    @property
    def citations(self) -> tuple[Span, ...]:
        return self.selection.spans if self.selection else ()

    def as_json(self) -> dict[str, Any]:
        """Plain data with stable keys, for programs."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "prompt_tokens": self.prompt_tokens,
            "stop_reason": self.stop_reason,
            "components": self.components,
            "parsed": to_jsonable_python(self.parsed),
            "parse_error": self.parse_error,
            "citations": [
                {"file": s.document.name, "start": s.start, "end": s.end, "section": s.section, "text": s.text}
                for s in self.citations
            ],
            "trace": [
                {
                    "file": d.span.document.name,
                    "start": d.span.start,
                    "end": d.span.end,
                    "taken": d.taken,
                    "reason": d.reason,
                    "scores": d.scores,
                }
                for d in (self.selection.trace if self.selection else ())
            ],
            "ledger": self.ledger.as_json(),
        }


@dataclass(frozen=True)
class Score:
    """How the model rates a continuation, one entry a token: log-probability (natural) and rank (0 is likeliest).

    prompt_tokens: length of the prompt in tokens."""

    tokens: tuple[int, ...]
    prompt_tokens: int
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    ledger: Ledger


class Stream:
    """The chunks of one output, as an iterator; `result` is there once it is exhausted."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._result: Result | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    @property
    def result(self) -> Result:
        """The result. Raises RuntimeError while chunks are left."""
        if self._result is None:
            raise RuntimeError("the stream has a result only after its last chunk: iterate to the end first")
        return self._result
