"""The ledger: what each stage of a request took in, gave out, held and saved. Everything counted.

A row is written by the stage that did the work. A figure that was not counted is None and is not
shown. The rows of one request add up:

    context.tokens_out + prompt overhead == tokenize.tokens_out == attention.tokens_in (prefill)
    decode.tokens_out == Result.tokens; drafted == accepted + rejected
    attention: kv slots held + slots evicted == tokens seen
    attention (reading the prompt) and decode: pairs attended <= pairs attendable, with equality for dense
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Saving:
    """What a method saved against doing without it: two counts of the same unit.

    `without` is the count that the request would have had, `with_` what it had.
    """

    what: str
    without: float
    with_: float

    @property
    def share(self) -> float:
        """Saved share of `without`, 0 to 1 (negative when the method cost more)."""
        return 1 - self.with_ / self.without if self.without else 0.0


@dataclass
class Row:
    """One stage of one request. Token counts are of the model's own tokenizer; bytes are of tensors."""

    stage: str
    method: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    forward_passes: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    """Of all threads of the process, also of other requests under way: on a busy machine steadier than `seconds`."""
    kv_bytes: int | None = None
    """Bytes of keys, values and positions held when the stage ended."""
    kv_bytes_peak: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Further counts by name, e.g. drafted, accepted, evicted, attended."""
    savings: list[Saving] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float | None:
        """Of what the stage worked through: the output of decode, the input of all others."""
        tokens = self.tokens_out if self.stage == "decode" else self.tokens_in
        return tokens / self.seconds if tokens and self.seconds > 0 else None


@dataclass
class Ledger:
    """The rows of one request, in the order in which a token passes the stages."""

    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def stage(self, stage: str, method: str) -> Iterator[Row]:
        """Appends a row and adds the time of the block to it, also when the block fails."""
        row = Row(stage, method)
        self.rows.append(row)
        with self.clock(row):
            yield row

    @staticmethod
    @contextmanager
    def clock(row: Row) -> Iterator[None]:
        """Adds the wall and processor time of the block to the row, also when the block fails."""
        start, processor_start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            row.seconds += time.perf_counter() - start
            row.processor_seconds += time.process_time() - processor_start

    def row(self, stage: str) -> Row:
        """The row of a stage. Raises KeyError if the request did not pass it."""
        for row in self.rows:
            if row.stage == stage:
                return row
        raise KeyError(stage)

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                **asdict(row),
                "tokens_per_second": row.tokens_per_second,
                "savings": [{**asdict(s), "share": s.share} for s in row.savings],
            }
            for row in self.rows
        ]
