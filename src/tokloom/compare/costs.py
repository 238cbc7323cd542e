"""What one answer cost, read off its ledger, and how costs are named, averaged and shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokloom.engine.request import Result, Score

_COUNTS = ("seen", "held", "attended", "attendable", "drafted", "accepted")


def costs_of(result: Result | Score) -> dict[str, float]:
    """The costs of one answer, or of a scored continuation, whose tokens count as generated.

    What no stage counted is left out.

    prompt_tokens, generated_tokens; document_tokens: the documents before selection; kv_bytes, kv_bytes_peak; seen,
    held: slots of the KV store; attended, attendable: query-key pairs of decoding, over all layers and KV heads;
    forward_passes: of decoding, the pass that reads the prompt not among them; drafted, accepted: tokens; seconds by
    stage: seconds_context, seconds_prefill, seconds_decode, and seconds, all stages together; processor_seconds: the
    same of all threads' processor time.
    """
    costs: dict[str, float] = {"prompt_tokens": result.prompt_tokens, "generated_tokens": len(result.tokens)}
    names = {"context": "context", "attention": "prefill", "decode": "decode"}
    for row in result.ledger.rows:
        costs["seconds"] = costs.get("seconds", 0.0) + row.seconds
        if row.processor_seconds:  # not known of other processes
            costs["processor_seconds"] = costs.get("processor_seconds", 0.0) + row.processor_seconds
        if row.stage in names:
            key = f"seconds_{names[row.stage]}"
            costs[key] = costs.get(key, 0.0) + row.seconds
        if row.stage == "context" and row.tokens_in is not None:
            costs["document_tokens"] = row.tokens_in
        if row.stage == "decode":
            costs["forward_passes"] = costs.get("forward_passes", 0) + row.forward_passes
        if row.kv_bytes is not None:
            costs["kv_bytes"] = row.kv_bytes
        if row.kv_bytes_peak is not None:
            costs["kv_bytes_peak"] = row.kv_bytes_peak
        costs.update({name: row.counts[name] for name in _COUNTS if name in row.counts})
    return costs


def _mean(key: str) -> Callable[[Sequence[Mapping[str, float]]], float | None]:
    def mean(answers: Sequence[Mapping[str, float]]) -> float | None:
        values = [costs[key] for costs in answers if key in costs]
        return statistics.fmean(values) if values else None

    return mean


def _median(key: str) -> Callable[[Sequence[Mapping[str, float]]], float | None]:
    """Times have a long tail on a busy machine, so their middle is taken, not their mean."""

    def median(answers: Sequence[Mapping[str, float]]) -> float | None:
        values = [costs[key] for costs in answers if key in costs]
        return statistics.median(values) if values else None

    return median


def _ratio(above: str, below: str) -> Callable[[Sequence[Mapping[str, float]]], float | None]:
    """Sum over sum: long answers weigh more than short ones."""

    def ratio(answers: Sequence[Mapping[str, float]]) -> float | None:
        both = [costs for costs in answers if above in costs and below in costs]
        whole = sum(costs[below] for costs in both)
        return sum(costs[above] for costs in both) / whole if whole else None

    return ratio


def number(value: float) -> str:
    """ "41,203", "8.25", "0.031": about three digits that mean something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


@dataclass(frozen=True)
class Cost:
    """One cost over all examples of a row.

    axis: name and unit on a plot's axis. scale: what a value is multiplied with to get that unit.
    plotted: whether the report draws quality against it.
    """

    key: str
    heading: str
    axis: str
    total: Callable[[Sequence[Mapping[str, float]]], float | None]
    scale: float = 1.0
    show: Callable[[float], str] = number
    plotted: bool = True

    def text(self, value: float) -> str:
        """The value in the unit of `axis`."""
        return self.show(value * self.scale)


COSTS = (
    Cost("prompt_tokens", "prompt tokens", "prompt (tokens)", _mean("prompt_tokens")),
    Cost("kv_bytes", "KV held, MiB", "keys and values held at the end (MiB)", _mean("kv_bytes"), 2**-20),
    Cost("kv_bytes_peak", "KV peak, MiB", "keys and values held at the peak (MiB)", _mean("kv_bytes_peak"), 2**-20),
    Cost("attended", "attended", "query-key pairs attended in decoding (% of all)", _ratio("attended", "attendable"),
         100.0, lambda value: f"{value:.1f}%"),
    Cost("forward_passes", "passes", "forward passes of decoding", _mean("forward_passes")),
    Cost("tokens_per_pass", "tokens/pass", "tokens per forward pass", _ratio("generated_tokens", "forward_passes"),
         plotted=False),
    Cost("published", "published", "tokens per forward pass that others measured on Spec-Bench (Vicuna-7B)",
         _mean("published"), plotted=False),
    Cost("seconds_context", "context s", "selecting the context (seconds, median)", _median("seconds_context"),
         plotted=False),
    Cost("seconds_prefill", "prefill s", "reading the prompt (seconds, median)", _median("seconds_prefill"),
         plotted=False),
    Cost("seconds_decode", "decode s", "decoding (seconds, median)", _median("seconds_decode"), plotted=False),
    Cost("seconds_per_token", "ms/token", "decoding (milliseconds per token)",
         _ratio("seconds_decode", "generated_tokens"), 1000.0),
    Cost("seconds", "seconds", "whole answer (seconds, median)", _median("seconds")),
    Cost("processor_seconds", "processor s", "whole answer (seconds of processor time, median)",
         _median("processor_seconds")),
    Cost("tokens_per_second", "tokens/s", "decoding (tokens per second)",
         _ratio("generated_tokens", "seconds_decode"), plotted=False),
)  # fmt: skip
"""In the order of the columns. All but tokens/pass and tokens/s are better when lower."""
