"""One request from its prompt's tokens to its result, and its account."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tokloom.engine.loop import Decoding
from tokloom.engine.request import Chunk, Result, Sampling, StopReason
from tokloom.engine.sampling import Sampler
from tokloom.ledger import Ledger, Row, Saving

Progress = Callable[[str, int, int], None]

if TYPE_CHECKING:
    import torch

    from tokloom.context.selector import Selection
    from tokloom.decode.constraint import Constraint, Matcher
    from tokloom.decode.prediction import Prediction
    from tokloom.engine.speculation.drafting import Drafting
    from tokloom.engine.text_stream import TextStream
    from tokloom.kv.store import KVStore


class Output(Protocol):
    """What a request has written when it has stopped."""

    @property
    def output(self) -> list[int]: ...
    @property
    def stop_reason(self) -> StopReason | None: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def stream(self) -> TextStream: ...


@dataclass
class OpenRequest:
    """Order of the calls: `prefill`, `start`, then passes of the decoding, and `finish`; or `run`, which does it all.

    tokens: the prompt, in the model's tokens. method: what the ledger's row of decoding is called.
    writer: writes the output in another way than one token after the other (a search, a diffusion model); then only
        `run` and `finish` are called.
    """

    prediction: Prediction
    tokens: list[int]
    sampling: Sampling
    rule: Constraint | None
    matcher: Matcher | None
    drafting: Drafting | None
    method: str
    ledger: Ledger
    components: dict[str, str]
    selection: Selection | None = None
    writer: Writer | None = None

    def __post_init__(self) -> None:
        if self.drafting is not None:
            self.drafting.state.check(self.prediction)

    def prefill(self, progress: Progress | None) -> torch.Tensor:
        """Reads the prompt, and the certain beginning of the output with it; returns the logits after it."""
        self._opening = self._forced_opening() if self.writer is None else []
        return prefill(self.prediction, [*self.tokens, *self._opening], self.ledger, progress)

    def _forced_opening(self) -> list[int]:
        """What the constraint makes certain at the beginning, as far as it can be read with the prompt. Policies with
        hooks would take it for the prompt's end, by which some of them judge."""
        prediction = self.prediction
        opening: list[int] = []
        if self.matcher is None or not prediction.reads_opening or not prediction.host.policy.plain:
            return []
        matcher = self.matcher.fork()
        maximum = min(self.sampling.max_new_tokens, prediction.window - len(self.tokens)) - 1
        while len(opening) < maximum and (forced := matcher.forced()) and forced[0] not in prediction.eos_ids:
            for token in forced:
                matcher.accept(token)
            opening += forced
        return opening[: max(0, maximum)]

    def start(self) -> Decoding:
        """The decoding, and its row in the ledger."""
        if self.drafting is not None:
            _ = self.drafting.curve  # a first measurement is not this request's time
        prompt = self.prediction.prompt(self.tokens)
        sampler = Sampler(self.sampling)
        self.decoding = Decoding(self.prediction, prompt, sampler, self.drafting, self.matcher, self._opening)
        self.written: Output = self.decoding
        self.row = Row("decode", self.method)
        self.ledger.rows.append(self.row)
        return self.decoding

    def finish(self) -> Result:
        """The result, when the output has stopped."""
        if self.writer is None:
            self._account()
            if self.drafting is not None:
                self.drafting.commit()
        written, rule = self.written, self.rule
        assert written.stop_reason is not None
        parsed, problem = None, None
        if rule is not None and written.is_complete:
            parsed, problem = _parsed(rule, written.stream.text)
        return Result(
            text=written.stream.text,
            tokens=tuple(written.output),
            prompt_tokens=len(self.tokens),
            stop_reason=written.stop_reason,
            ledger=self.ledger,
            selection=self.selection,
            components=self.components,
            parsed=parsed,
            parse_error=problem,
        )

    def _account(self) -> None:
        decoding, row = self.decoding, self.row
        generated = len(decoding.output)
        row.tokens_out = generated
        row.forward_passes = decoding.passes
        row.counts = {
            "drafted": decoding.drafted, "accepted": decoding.accepted,
            "rejected": decoding.drafted - decoding.accepted, "forced": decoding.forced, **self.prediction.counts,
        }  # fmt: skip
        if generated - 1 != decoding.passes:
            row.savings = [Saving("forward passes", generated - 1, decoding.passes)]
        account(self.ledger.row("attention"), row, self.prediction)

    def run(self, progress: Progress | None) -> Iterator[Chunk]:
        """All of it alone, chunk by chunk. Only the engine's own time counts, not what the caller does between two."""
        if self.writer is not None:
            self.written = yield from self.writer(self, progress)
            return
        logits = self.prefill(progress)
        steps = self.start().run(logits)
        while True:
            with self.ledger.clock(self.row):
                chunk = next(steps, None)
            if chunk is None:
                return
            yield chunk


Writer = Callable[[OpenRequest, Progress | None], Generator[Chunk, None, Output]]
"""Writes the output of a request chunk by chunk, and returns it."""


def prefill(prediction: Prediction, tokens: list[int], ledger: Ledger, progress: Progress | None) -> torch.Tensor:
    """Reads a prompt; returns the logits after it."""
    host = prediction.host
    with ledger.stage("attention", host.policy.name) as row:

        def told(done: int) -> None:
            row.forward_passes += 1
            if progress is not None:
                progress("prompt", done, len(tokens))

        row.tokens_in = len(tokens)
        logits = prediction.prefill(tokens, told)
        row.counts = pairs(host.stores)
        if host.prefixes is not None:
            row.counts |= {"reused": host.reused, "prefix_bytes": host.prefixes.bytes}
            if host.reused:
                row.savings.append(Saving("tokens read", len(tokens), len(tokens) - host.reused))
    return logits


def pairs(stores: Sequence[KVStore]) -> dict[str, int]:
    """Pairs attended and attendable, over all stores of a request."""
    counted = [store.pairs() for store in stores]
    return {name: sum(each[name] for each in counted) for name in ("attended", "attendable")}


def account(attention: Row, decode: Row, prediction: Prediction) -> None:
    """Writes what the stores held and computed into the rows, when the request has ended."""
    stores = prediction.host.stores
    slots, counted = stores[0].slots(), pairs(stores)
    decode.counts |= {name: counted[name] - attention.counts[name] for name in counted}
    attention.counts |= slots
    attention.tokens_out = slots["held"]
    attention.kv_bytes = sum(store.bytes for store in stores)
    for store in stores:
        for name, number in store.mapping().items():
            attention.counts[name] = attention.counts.get(name, 0) + number
    attention.kv_bytes_peak = sum(store.peak_bytes for store in stores)
    if slots["evicted"]:
        attention.savings.append(Saving("KV slots", slots["seen"], slots["held"]))
    for row in (attention, decode):
        if row.counts["attended"] != row.counts["attendable"]:
            row.savings.append(Saving("attended pairs", row.counts["attendable"], row.counts["attended"]))


def _parsed(rule: Constraint, text: str) -> tuple[Any, str | None]:
    """What the constraint makes of an output, or why it makes nothing of it."""
    try:
        return rule.parse(text), None
    except Exception as error:  # of any kind: a reader runs validators that are the user's own
        return None, f"{type(error).__name__}: {error}"
