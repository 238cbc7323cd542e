"""The loop of diffusion models: propose, fill in, block by block."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tokloom import registry
from tokloom.decode.denoiser import Denoiser, DenoisingCache, Proposals, Reading, Unmasking, WholeText, words
from tokloom.engine.request import Chunk, StopReason
from tokloom.engine.sampling import Sampler
from tokloom.engine.text_stream import TextStream
from tokloom.errors import CompositionError
from tokloom.ledger import Row, Saving

if TYPE_CHECKING:
    from tokloom.engine.open_request import OpenRequest, Progress
    from tokloom.models.language_model import LanguageModel

DEFAULT = "plain_denoising"


@dataclass(frozen=True)
class DiffusionMode:
    """How a diffusion model writes. cache: None reads the whole text in every pass."""

    denoiser: Denoiser
    cache: DenoisingCache | None

    @classmethod
    def fitting(
        cls, model: LanguageModel, denoiser: str | Denoiser | None, cache: str | DenoisingCache | None
    ) -> DiffusionMode | None:
        """With the default for what is not given; None for a causal model.

        Raises CompositionError if one is given for a causal model."""
        given = {"a denoiser": denoiser, "a denoising cache": cache}
        if model.mask_id is None:
            for name, part in given.items():
                if part is not None:
                    raise CompositionError(name, model.name, "it is no diffusion model")
            return None
        return cls(
            registry.build(DEFAULT if denoiser is None else denoiser, Denoiser, "denoiser"),
            None if cache is None else registry.build(cache, DenoisingCache, "denoising_cache"),
        )

    def refuse(self, model: LanguageModel, *parts: Any) -> None:
        """Raises CompositionError if one of the components is given that act on the next token."""
        for part in parts:
            if part is not None:
                raise CompositionError(
                    part.name, model.name, "a diffusion model does not write one token after another"
                )


def denoise(way: DiffusionMode, request: OpenRequest, progress: Progress | None) -> Generator[Chunk, None, Denoising]:
    """Runs one request; returns what is known of it at its end."""
    host, tokens, sampling, ledger = request.prediction.host, request.tokens, request.sampling, request.ledger
    denoiser = way.denoiser
    reading = WholeText(host.model) if way.cache is None else way.cache.start(host.model)
    unmasking = denoiser.start(host)
    denoising = Denoising(host.model, tokens, Sampler(sampling), unmasking, reading, denoiser.block)
    steps = denoising.run()
    row = Row("decode", " + ".join(part.name for part in (denoiser, way.cache) if part is not None))
    ledger.rows.append(row)
    while True:
        with ledger.clock(row):
            chunk = next(steps, None)
        if chunk is None:
            break
        yield chunk
    row.tokens_out, row.forward_passes = len(denoising.output), denoising.passes
    row.counts = {"read rows": reading.rows, **unmasking.counts}
    if reading.rows != denoising.unread:
        row.savings = [Saving("tokens read", denoising.unread, reading.rows)]
    return denoising


class Denoising:
    """One request to a diffusion model. `run` yields text; the counts are there when it ends."""

    is_complete = False  # no constraint

    def __init__(
        self,
        model: LanguageModel,
        prompt: list[int],
        sampler: Sampler,
        unmasking: Unmasking,
        reading: Reading,
        block: int,
    ) -> None:
        self.model, self.sampler, self.unmasking, self.reading, self.block = model, sampler, unmasking, reading, block
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        self.stream = TextStream(sampler.sampling.stop)
        self.stop_reason: StopReason | None = None
        self.passes = self.unread = 0
        """Passes of the diffusion model, and the tokens that these would read without a cache."""
        self._allowed = words(model)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    def run(self) -> Iterator[Chunk]:
        """Denoises until a stop, a chunk for each block."""
        while self.stop_reason is None:
            left = self.sampler.sampling.max_new_tokens - len(self.output)
            size = min(self.block, left, self.model.window - len(self.tokens))
            yield self._take(self._denoised(size))
        tail = self.stream.finish()
        if tail:
            yield Chunk(tail, ())

    def _denoised(self, size: int) -> list[int]:
        """The next block."""
        mask, start = self.model.mask_id, len(self.tokens)
        assert mask is not None
        text = [*self.tokens, *[mask] * size]
        known = [False] * size
        while not all(known):
            logits = self.reading.read(text, start)
            self.passes += 1
            self.unread += len(text)
            masked = [i for i in range(size) if not known[i]]
            drawn = [self.sampler.draw(logits[i], self._allowed) for i in masked]
            probabilities = logits[masked].masked_fill(~self._allowed, -torch.inf).softmax(-1)
            proposals = Proposals(
                text, [start + i for i in masked], drawn, [float(probabilities[n, t]) for n, t in enumerate(drawn)]
            )
            for place, token in self.unmasking.choose(proposals).items():
                text[place] = token
                known[place - start] = True
        return text[start:]

    def _take(self, block: list[int]) -> Chunk:
        """Adds a block to the output, up to where the text ends."""
        text, before = "", len(self.tokens)
        for token in block:
            self.tokens.append(token)
            text += self.stream.push(self.model.vocabulary.token_bytes[token])
            if token in self.model.eos_ids:
                self.stop_reason = "end"
            elif self.stream.stopped:
                self.stop_reason = "stop"
            elif len(self.output) >= self.sampler.sampling.max_new_tokens:
                self.stop_reason = "length"
            elif len(self.tokens) >= self.model.window:
                self.stop_reason = "window"
            if self.stop_reason is not None:
                break
        return Chunk(text, tuple(self.tokens[before:]))
