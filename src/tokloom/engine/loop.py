"""The decoding loop: draft, one forward pass, sample along the tree, keep what was accepted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from tokloom.attention.kv_store import Step
from tokloom.decode.stage import DraftTree, Matcher, Prediction, Verified
from tokloom.engine.drafting import Drafting
from tokloom.engine.request import Chunk, StopReason
from tokloom.engine.sampling import Sampler, unpack
from tokloom.engine.text_stream import TextStream


class Decoding:
    """One request after its prompt. `run` yields text; the counts are there when it ends.

    All tokens are of the prediction's vocabulary.

    Invariant: len(output) == 1 + passes + accepted + forced (the 1 comes from the prompt's logits).
    """

    def __init__(
        self,
        prediction: Prediction,
        prompt: list[int],
        sampler: Sampler,
        drafting: Drafting | None,
        matcher: Matcher | None,
    ) -> None:
        self.prediction, self.sampler = prediction, sampler
        self.drafting, self.matcher = drafting, matcher
        self.device = prediction.host.model.device
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        self.stream = TextStream(sampler.sampling.stop)
        self.stop_reason: StopReason | None = None
        self._text = ""
        self._sent = len(prompt)
        self.passes = self.drafted = self.accepted = self.forced = 0
        self._asked: tuple[DraftTree, int, list[int], list[int], tuple[int, ...]]
        self._words = np.zeros((prediction.vocabulary.size + 31) // 32, dtype=np.int32)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def is_complete(self) -> bool:
        """The output satisfies the constraint as it stands: it was not cut off, by a stop string or a limit."""
        return self.matcher is not None and self.stop_reason != "stop" and self.matcher.is_complete

    def run(self, logits: torch.Tensor) -> Iterator[Chunk]:
        """Decodes until a stop; `logits` (vocabulary,) are those after the prompt."""
        self.begin(logits)
        yield self._chunk()
        while self.stop_reason is None:
            asked = self.ask()
            if asked is not None:
                self.answer(self.prediction.rows(*asked))
            yield self._chunk()
        tail = self.stream.finish()
        if tail:
            yield Chunk(tail, ())

    def _chunk(self) -> Chunk:
        """What came since the last chunk."""
        text, self._text = self._text, ""
        tokens = tuple(self.tokens[self._sent :])
        self._sent = len(self.tokens)
        return Chunk(text, tokens)

    def _take(self, token: int) -> bool:
        """Adds a token to the output; False when the text ends with it."""
        self.tokens.append(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        self._text += self.stream.push(self.prediction.vocabulary.token_bytes[token])
        if token in self.prediction.eos_ids:
            self.stop_reason = "end"
        elif self.stream.stopped:
            self.stop_reason = "stop"
        elif len(self.tokens) - self.prompt_length >= self.sampler.sampling.max_new_tokens:
            self.stop_reason = "length"
        elif len(self.tokens) >= self.prediction.window:
            self.stop_reason = "window"
        return self.stop_reason is None

    def _allowed(self) -> torch.Tensor | None:
        """Bool (vocabulary,) of tokens that the constraint allows next; None without one."""
        if self.matcher is None:
            return None
        self.matcher.mask(self._words)
        return unpack(self._words, self.prediction.vocabulary.size).to(self.device)

    def _draft(self, certain: list[int]) -> tuple[DraftTree, int]:
        """What to verify in the next pass beside the last token, and how many of its first nodes are certain."""
        left = self.sampler.sampling.max_new_tokens - (len(self.tokens) - self.prompt_length)
        # The last token itself takes one of the room; a token drafted beyond what is left is wasted.
        depth = min(self.prediction.room() - 1, left - 1, self.prediction.window - len(self.tokens) - 1)
        chain = certain[: max(depth, 0)]
        if self.drafting is None:
            return DraftTree().below(chain), len(chain)
        return self.drafting.propose(self.tokens, depth, self.prediction, chain, self.matcher), len(chain)

    def begin(self, logits: torch.Tensor) -> None:
        """Takes the first token; `logits` (vocabulary,) are those after the prompt."""
        if self.drafting is not None:
            self.drafting.state.read(self.tokens)
        self._take(self.sampler.draw(logits, self._allowed()))

    def ask(self) -> tuple[list[int], Step] | None:
        """The rows of the next pass: the last token and what is drafted. None if the text ended without one."""
        certain = self.matcher.forced() if self.matcher is not None else []
        if certain and certain[0] in self.prediction.eos_ids:
            self._take(certain[0])
            self.forced += 1
            return None
        tree, sure = self._draft(certain)
        text = list(self.tokens)
        rows, parents = [text[-1], *tree.tokens], (-1, *(parent + 1 for parent in tree.parents))
        first = len(text) - 1
        if len(tree):
            step = Step((first, *(first + depth for depth in tree.depths())), self.device, parents=parents)
        else:
            step = Step((first,), self.device)
        self._asked = tree, sure, text, rows, parents
        return rows, step

    def answer(self, logits: torch.Tensor) -> None:
        """Takes the tokens that a pass gives; `logits` (rows, vocabulary) of what `ask` returned."""
        tree, certain, text, rows, parents = self._asked
        children: dict[tuple[int, int], int] = {
            (parent + 1, token): node + 1
            for node, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True))
        }
        plain = self.matcher is None and self.sampler.generator is None
        greedy = self.sampler.greedy(logits) if plain else []
        path, row = [0], 0
        while True:
            token = greedy[row] if plain else self.sampler.draw(logits[row], self._allowed())
            if not self._take(token) or (row, token) not in children:
                break
            row = children[row, token]
            path.append(row)
        self.passes += 1
        self.drafted += len(tree)
        self.accepted += len(path) - 1
        self.prediction.accept(path)
        if self.drafting is not None:
            self.drafting.learn(Verified(text, rows, parents, logits, path), tree, certain)
